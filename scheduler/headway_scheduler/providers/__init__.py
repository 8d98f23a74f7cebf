"""How providers charge and what their answers mean. Law of this folder: pure, one file each."""
