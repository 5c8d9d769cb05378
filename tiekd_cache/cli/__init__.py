"""The command line: `tiekd-cache COMMAND`. Only this package prints.

Results go to stdout, progress and notes to stderr. Exit 0: done; 1: an error that the user can mend, in one
line; 2: wrong usage; 130: interrupted.
"""

from __future__ import annotations

import click

from tiekd_cache.cli.bench import bench
from tiekd_cache.cli.bench_remote import bench_remote
from tiekd_cache.cli.common import ErrorsInOneLine
from tiekd_cache.cli.compare import compare
from tiekd_cache.cli.demo import demo
from tiekd_cache.cli.distill import distill
from tiekd_cache.cli.doctor import doctor
from tiekd_cache.cli.evaluate import evaluate
from tiekd_cache.cli.exchange import export_store, import_files
from tiekd_cache.cli.export_student import export_student
from tiekd_cache.cli.list_stores import list_command
from tiekd_cache.cli.precompute import precompute
from tiekd_cache.cli.run import run
from tiekd_cache.cli.sharing import merge, pull, push
from tiekd_cache.cli.signing import sign
from tiekd_cache.cli.store import info, verify
from tiekd_cache.cli.students import students
from tiekd_cache.cli.teachers import teachers
from tiekd_cache.version import __version__


@click.group(cls=ErrorsInOneLine, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="tiekd-cache")
def main() -> None:
    """Run the heavy depth teacher once; distill students forever.

    \b
    Start here:        tiekd-cache demo
    Stage one:         tiekd-cache precompute --teacher bts
    Stage two:         tiekd-cache distill --student resnet18
    What is missing:   tiekd-cache doctor
    """


for _command in (
    demo,
    precompute,
    distill,
    evaluate,
    compare,
    list_command,
    info,
    verify,
    sign,
    import_files,
    export_store,
    push,
    pull,
    merge,
    export_student,
    run,
    doctor,
    bench,
    teachers,
    students,
):
    main.add_command(_command)
bench.add_command(bench_remote)
