"""Shows a stage talk: plays its scene, and draws what went over the wires. show.py STAGE FOLDER"""
import asyncio
import os
import sys

import ladder
import picture
from rows import rows_of
from scenes import SCENES
from stage import Fault, Stage

LONGEST = 60  # seconds that a scene may take, whatever its programs do


async def play(number, folder):
    """The stage after its scene, fault and all."""
    stage = Stage(number, folder)
    try:
        await asyncio.wait_for(SCENES[number](stage), LONGEST)
    except Fault:
        await stage.aftermath()
    except asyncio.TimeoutError:
        stage.note("fault", f"expected: the end of the scene; it is not over after {LONGEST} s")
    finally:
        await stage.close()
    return stage


def verdict(stage):
    if stage.fault:
        return "It went wrong where the !! is."
    return f"Stage {stage.number} said what it should."


def main():
    number, folder = int(sys.argv[1]), sys.argv[2]
    stage = asyncio.run(play(number, folder))
    rows = rows_of(stage)
    title = f"Stage {number}: {SCENES[number].__doc__}"
    if os.environ.get("SHOW") == "svg":
        path = f"build/show/stage{number}.svg"
        os.makedirs("build/show", exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(picture.draw(number, rows, title))
        print(f"{path} is written.")
    else:
        with_color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        print(f"{title}\n\n{ladder.draw(number, rows, with_color)}\n\n{verdict(stage)}")
    return 1 if stage.fault else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
