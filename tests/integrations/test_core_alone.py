import json
import subprocess
import sys
from importlib.metadata import requires

from packaging.requirements import Requirement


def test_the_core_imports_none_of_its_hosts():
    """Would catch: a core install that fails at `import leapgen`, or starts slowly, because of a program it plugs into."""
    extras = {requirement.name.lower().replace("-", "_") for requirement in map(Requirement, requires("leapgen") or ())
              if requirement.marker is not None and requirement.marker.evaluate({"extra": "test-integrations"})}
    code = ("import json, sys, leapgen\nfrom leapgen import LeapConfig, LeapGenerator\n"
            "import leapgen.session, leapgen.terminal.cli\n"
            "print(json.dumps(sorted({name.split('.')[0].lower() for name in sys.modules})))")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(run.stdout))
    assert not extras & loaded
