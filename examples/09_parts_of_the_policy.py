"""What would the policy do to your teams? The scheduler itself answers, in simulated time.

A nightly crawl has queued more than the budget holds (600 tokens a minute, 300 at once). A chat
asks now and then, and a report that someone waits for has its research done by background agents.
"""

from dataclasses import replace

from headway.demo.policy import Flow, waits
from headway_scheduler.core.policy import STRICT, Policy
from headway_scheduler.model.calls import Priority

CRAWL = Flow("crawl", Priority.BACKGROUND, times=(0.0,) * 120)
CHAT = Flow("chat", Priority.INTERACTIVE, times=(30.5, 31.0, 31.5, 60.5, 61.0, 61.5))
RESEARCH = Flow("research", Priority.BACKGROUND, times=(40.0,) * 5)
REPORT = Flow("report", Priority.INTERACTIVE, times=(), waits_for="research")

POLICIES = {
    "arrival within the class": STRICT,
    "no headroom": replace(Policy(), headroom=(0.0,) * 5),
    "the policy": Policy(),
}


def main():
    for name, policy in POLICIES.items():
        for report in (replace(REPORT, waits_for=None), REPORT):
            waited = waits([CRAWL, CHAT, RESEARCH, report], policy)
            print(
                f"{name:<25}",
                f"{'inherited' if report.waits_for else 'plain':<10}",
                *(
                    f"{run} {sum(each) / len(each):5.1f} s  "
                    for run, each in waited.items()
                    if each
                ),
            )


if __name__ == "__main__":
    main()
