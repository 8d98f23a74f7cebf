"""Parts for tests that are shipped, because the demo and users' tests need them as well."""
