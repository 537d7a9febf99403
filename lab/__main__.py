import sys
from lab.build import build
from lab.progress import Progress
from lab.errors import LabError
try:
    with Progress() as p:
        print(build(p))
except LabError as e:
    print("lab:", e); print(e.detail); sys.exit(125)
