"""Commands keep memory that tensors free; the library, imported, does not."""

import platform
import subprocess
import sys

import pytest

from naf_hub.memory import keep_freed_memory

FAULTS = """
import resource, sys
from naf_hub.memory import keep_freed_memory
if sys.argv[1:] == ["keep"]:
    assert keep_freed_memory()
import torch
def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(16, 1024, 1024)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(8):  # until blocks are found whose alignment suits
    pages()
print(pages() * resource.getpagesize() >> 20)
"""
GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc of glibc")


@GLIBC
@pytest.mark.parametrize(("arguments", "handed_out_anew"), [([], True), (["keep"], False)])
def test_freed_maps_are_used_again_only_where_that_was_asked_for(arguments, handed_out_anew, monkeypatch):
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, *arguments], capture_output=True, text=True, check=True
    )
    mebibytes = int(done.stdout)
    assert (mebibytes > 200) if handed_out_anew else (mebibytes < 16)


@pytest.mark.parametrize(
    "tuned", [{"MALLOC_MMAP_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=9"}]
)
def test_what_the_user_has_tuned_stays(tuned):
    assert keep_freed_memory(tuned) is False
