"""Fails if the suite executed a smaller share of the lines than the floor; names the worst files.

It reads what `make test` measured. What tests execute in processes of their own does not count.
"""

import json
import sys

FLOOR_PERCENT = 93

with open("build/coverage.json") as file:
    coverage = json.load(file)
shares = sorted(
    (info["summary"]["percent_covered"], len(info["missing_lines"]), name)
    for name, info in coverage["files"].items()
)
for percent, missing, name in shares[:10]:
    print(f"{percent:6.1f}%  {missing:4} lines not executed  {name}")
total = coverage["summary"]["percent_covered"]
print(f"{total:6.1f}%  of all lines are executed; the floor is {FLOOR_PERCENT}%")
sys.exit(total < FLOOR_PERCENT)
