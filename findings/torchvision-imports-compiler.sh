#!/usr/bin/env bash
# torchvision 0.29.1 with torch 2.14.1: `import torchvision` imports the compiler's front end, on every start.
#
# Input:      none; three new processes that import torch, torchvision, or torchvision with the compiler imported before.
#
# Versions: torch 2.14.1, torchvision 0.29.1; Python 3.11, Linux x86_64. Needs 6 GB in the folder of temporary files.
# Expected:   torch imports torch._dynamo (and with it sympy) when something is compiled, so a program that only builds a
#             network starts without it. torchvision.ops wraps the one function that it compiles so that this comes late.
# Seen:       the module of that function, torchvision/ops/roi_align.py, asks torch._dynamo.utils at its top whether
#             compiling is supported: hundreds of modules more, and as many seconds again as `import torch` takes. timm and
#             segmentation-models-pytorch import torchvision, so every program around them pays, too.
# Way round:  none without torchvision; a command that needs no network should not import one (`css` imports late).
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1
cd "$folder"
cat > measure.py <<'PY'
import importlib
import sys
import time

for name in sys.argv[1:-1]:
    importlib.import_module(name)
began, before = time.process_time(), set(sys.modules)
importlib.import_module(sys.argv[-1])
more = set(sys.modules) - before
compiler = [name for name in more if name.split(".")[:2] == ["torch", "_dynamo"] or name.split(".")[0] == "sympy"]
print(f"{time.process_time() - began:.2f} {len(more)} {len(compiler)}")
PY
for _ in 1 2; do # the first round only fills the caches of files and of byte code
    torch="$(venv/bin/python measure.py torch)"
    vision="$(venv/bin/python measure.py torch torchvision)"
    rest="$(venv/bin/python measure.py torch torch._dynamo torchvision)"
done
venv/bin/python - "$torch" "$vision" "$rest" <<'PY'
import sys
from importlib.metadata import version

print("torch", version("torch"), "torchvision", version("torchvision"))
names = ("import torch", "then import torchvision", "the same, had torch._dynamo been imported already")
rows = [text.split() for text in sys.argv[1:]]
for name, (seconds, modules, compiler) in zip(names, rows):
    print(f"{name}: {seconds} CPU s, {modules} modules, {compiler} of them of torch._dynamo or sympy")
alone, vision, rest = ([float(value) for value in row] for row in rows)
sys.exit(0 if alone[2] == 0 and vision[2] > 100 and vision[0] > 2 * rest[0] else 1)
PY
