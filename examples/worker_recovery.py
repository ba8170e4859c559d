"""A support agent that is killed in the middle of its work, and one that continues it.

Run it with `python examples/worker_recovery.py`. The first process answers three questions and dies
when it has sent the first of the answers. The second one sends the other two before it goes on to
new questions: an answer is kept on disk from when it is published until it is acknowledged.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

from agent_event_bus.worker import AgentWorker, EventBus, InboundEvent, OutboundEvent

ANSWERS = {
    "Where is my parcel?": "It is in Porto.",
    "Can I change the address?": "Yes, until it is delivered.",
    "Who is the sender?": "The workshop.",
    "Thank you!": "You are welcome.",
}


async def respond(event: InboundEvent) -> str:
    """Stand for a language model."""
    await asyncio.sleep(0)
    return ANSWERS[event.content]


async def serve(folder: Path, questions: dict[str, str], dies: bool) -> None:
    """Answer questions, and send the answers.

    Args:
        folder: Where the answers are kept until they are sent.
        questions: What each user asks.
        dies: Whether the process dies when it has sent one answer.
    """
    context = SimpleNamespace(config=SimpleNamespace(event_path=folder), eventbus=None)
    bus = context.eventbus = EventBus(context)
    agent = AgentWorker(context, respond)

    async def send(event: OutboundEvent) -> None:
        print(f"{event.session_id}: {event.content}", flush=True)  # to a mail server, say
        await bus.ack_async(event)
        if dies:
            os._exit(9)  # at once, as if killed: nothing is finished, flushed or closed

    bus.subscribe(OutboundEvent, send)
    for user, question in questions.items():
        await bus.publish(InboundEvent(user, question))
    agent.start()
    bus.start()
    await bus.join()
    await agent.stop()
    await bus.stop()


def main() -> None:
    """Run the process that dies, and then the one that continues."""
    with tempfile.TemporaryDirectory() as folder:
        print("first process", flush=True)
        done = subprocess.run([sys.executable, __file__, folder], check=False)
        print(f"it has died with status {done.returncode}", flush=True)
        asyncio.run(serve(Path(folder), {"Ada": "Thank you!"}, dies=False))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        users = ("Ada", "Bo", "Cy")
        asyncio.run(serve(Path(sys.argv[1]), dict(zip(users, ANSWERS)), dies=True))
    else:
        main()
