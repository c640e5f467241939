"""Compiles the kernels for an H200, without one; prints what each takes, as JSON.

Run as a program of its own, without Triton's interpreter.
"""

import json
import re
import subprocess
import tempfile

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from curation.kernels import triton as ours
from curation.kernels import triton_exact as exact

POINTERS = {
    **{"rows": "*fp16", "order": "*i64", "bounds": "*i64", "centroids": "*fp16", "half_squares": "*fp32"},
    **{"members": "*i32", "offsets": "*i64", "scores": "*fp32", "labels": "*i32", "found": "*i64"},
    "sums": "*fp64",
    **{"index": "*i64", "out": "*fp64"},
}


def compiled(kernel, constants, warps=4, stages=2, kinds=POINTERS):
    """Registers and bytes of stack of a thread, bytes shared by a program, and what it is made of."""
    signature = {
        name: "constexpr" if name in constants else kinds.get(name, "i32") for name in kernel.arg_names
    }
    aligned = [name for name, kind in signature.items() if kind[0] == "*" or (name, kind) == ("width", "i32")]
    attributes = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": warps, "num_stages": stages}
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        told = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True)
    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", told.stdout + told.stderr).groups())
    return {
        "registers": registers,
        "stack": stack,
        "shared": built.metadata.shared,
        "tensor_cores": "wgmma.mma_async" in built.asm["ptx"],
        "copy_engine": "cp.async.bulk.tensor" in built.asm["ptx"],
    }


def scan(tile, width, spans=False, members=False, close=False):
    """The scan of rows of this width."""
    given = {"order": spans, "bounds": spans, "members": members, "offsets": members, "found": close}
    constants = {name: None for name, there in given.items() if not there}
    depth = min(tile.depth, width)
    sizes = {"ROWS": tile.rows, "CENTROIDS": tile.centroids, "DEPTH": depth}
    constants |= sizes | {"LEVELS": tile.centroids.bit_length() - 4, "WHOLE": tile.depth >= width}
    constants |= {"SPANS": spans, "MEMBERS": members, "CLOSE": close}
    kinds = dict(POINTERS)
    if not spans:
        kinds["rows"] = f"tensordesc<fp16[{tile.rows}, {depth}]>"
    if not members:
        kinds["centroids"] = f"tensordesc<fp16[{tile.centroids}, {depth}]>"
    return compiled(ours._scan, constants, tile.warps, tile.stages, kinds)


def main():
    """The tiles of some widths, in every mode, the sums and the distances."""
    found = {}
    for width in (128, 768):
        found[f"{width}"] = scan(ours.tiles(width)[0], width)
        few = ours.short_tiles(width)[0]
        found[f"{width} restricted"] = scan(few, width, spans=True, members=True)
        found[f"{width} close"] = scan(few, width, spans=True, close=True)
    found["768 close and restricted"] = scan(few, width, spans=True, members=True, close=True)
    found["sums"] = compiled(exact._add, {"ROWS": exact._TOGETHER, "COLUMNS": exact._COLUMNS})
    sizes = {"ROWS": exact._PAIR_ROWS, "COLUMNS": exact._COLUMNS}
    found["distances"] = compiled(exact._distance, sizes)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
