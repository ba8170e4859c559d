"""src/: rules that keep the core safe in every interpreter, and portable to compilers not at hand.

The rules that a compiler or an analyser can judge are checked by `.ci/tidy`; here are the others.
Each rule is shown a breach of it too, so that none of them passes because it sees nothing.
"""

from __future__ import annotations

import asyncio
import gc
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_event_bus import EventBus, _core

SRC = Path(__file__).parents[1] / "src"
COMPAT = "compat.h"

# What is no code is blanked out: comments, string and character constants.
NO_CODE = re.compile(r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.DOTALL)


def code(text: str) -> str:
    """Return C source with comments and the contents of constants blanked, line by line."""

    def blank(match: re.Match[str]) -> str:
        quote = match[0][0] if match[0][0] in "\"'" else ""
        return f"{quote}{quote}" + "\n" * match[0].count("\n")

    return NO_CODE.sub(blank, text)


def sources() -> dict[str, str]:
    """Return the code of each file of src/, by name."""
    found = {file.name: code(file.read_text(encoding="utf-8")) for file in SRC.glob("*.[ch]")}
    assert {COMPAT, "bus.c", "module.c"} <= set(found)
    return found


# What may stand only in compat.h, or nowhere


PRIVATE_NAME = re.compile(r"\b_Py\w+|\bPyUnstable_\w+|\bPy_BUILD_CORE\w*")

# The private names that compat.h uses.
PRIVATE_IN_COMPAT = {
    "_PyCFunctionFastWithKeywords",  # the type of a documented calling convention, until 3.13
    "_PyDict_GetItem_KnownHash",  # as asyncio's own C code looks up current tasks, until 3.14
    "_PyDict_SetItem_KnownHash",
}

# For each rule what breaks it, and an example that does. compat.h may do all of it.
ONLY_IN_COMPAT = {
    "private names": (PRIVATE_NAME, "_PyObject_GetMethod(a, b, &c);"),
    "private headers": (
        re.compile(r"# *include *<(?:internal/|cpython/|pycore_|frameobject\.h)"),
        "#include <internal/pycore_dict.h>",
    ),
    "fields of CPython's objects": (
        re.compile(
            r"(?:->|\.)(?:ob_(?:refcnt|type|size|item|digit|sval|base|tid|mutex|ref_\w+)"
            r"|ma_\w+|gi_\w+|cr_\w+|ag_\w+|co_\w+|f_(?:back|frame|code)|ht_\w+|im_\w+|m_ml|m_self"
            r"|func_\w+|wr_\w+|md_\w+|interp|c?frame|exc_info|recursion_\w+|tracing)\b"
        ),
        "if (self->ob_refcnt == 1) {",
    ),
    "headers of one system": (
        re.compile(
            r"# *include *<(?:unistd|windows|process|pthread|alloca|strings|malloc|sys/\w+)\.h>"
        ),
        "#include <pthread.h>",
    ),
    "compiler and system macros": (
        re.compile(r"\b(?:__GNUC__|__clang__|_MSC_VER|_WIN32|MS_WINDOWS|__linux__|__APPLE__)\b"),
        "#ifdef _WIN32",
    ),
    "attributes and builtins": (
        re.compile(
            r"\b__(?:attribute|builtin_\w+|extension|declspec|restrict|inline|asm)(?:__)?\b"
        ),
        "x = __builtin_expect(y, 1);",
    ),
}

# Nor may compat.h do these, except for what its own #if leaves to one compiler.
NOWHERE = {
    "statement expressions": (re.compile(r"\(\s*\{"), "x = ({ y; });"),
    "typeof": (re.compile(r"\b(?:__)?(?:typeof|auto_type)(?:__)?\b"), "typeof(x) y = x;"),
    "the binary ?:": (re.compile(r"\?\s*:"), "x = y ?: z;"),
    "ranges of cases": (re.compile(r"\bcase\b[^:;]*\.\.\."), "case 1 ... 3:"),
    "addresses of labels": (re.compile(r"=\s*&&\s*\w|\bgoto\s*\*"), "goto *target;"),
    "arrays without elements": (
        re.compile(r"^[ \t]*(?!return\b)\w+[ \t]+\**\w+\s*\[\s*0\s*\]\s*;", re.MULTILINE),
        "    char rest[0];",
    ),
    "empty braces": (re.compile(r"=\s*\{\s*\}"), "struct a b = {};"),
    "the comma before __VA_ARGS__": (re.compile(r"##\s*__VA_ARGS__"), "f(a, ##__VA_ARGS__)"),
    "ranges of designators": (re.compile(r"\[[^]\n]*\.\.\.[^]\n]*\]\s*="), "{[1 ... 3] = 0}"),
    # MSVC's C11 has no complex numbers, threads.h and aligned_alloc, and atomics only as an option.
    "what MSVC's C11 lacks": (
        re.compile(
            r"\b(?:_Complex|_Imaginary|_Atomic|_Thread_local|thread_local|aligned_alloc)\b"
            r"|# *include *<(?:stdatomic|threads|complex|tgmath)\.h>"
        ),
        "static _Atomic int count;",
    ),
    "functions of POSIX and GNU": (
        re.compile(
            r"\b(?:alloca|strdup|strndup|strcasecmp|asprintf|bzero|mempcpy|gettimeofday|usleep)\s*\("
            r"|\bssize_t\b|\bu_?int\b"
        ),
        "char *copy = strdup(text);",
    ),
    # There a field of an enumeration is signed, so its upper half would read as negative.
    "bit-fields other than of bool and unsigned": (
        re.compile(
            r"^[ \t]*(?!bool\b|unsigned\b|uint\d+_t\b|case\b|default\b)\w+[ \t]+\w+[ \t]*"
            r":[ \t]*\d+[ \t]*;",
            re.MULTILINE,
        ),
        "    aeb_form form : 2;",
    ),
    # One object for all interpreters of the process, and for all threads.
    "static types": (re.compile(r"\bPyTypeObject\s+\w+\s*(?:=|;|\[)"), "static PyTypeObject T = {"),
    "types of one process": (
        re.compile(r"\bPyType_Ready\s*\(|\bPyStructSequence_InitType2?\s*\("),
        "PyType_Ready(&T);",
    ),
    "modules looked up without their interpreter": (
        re.compile(r"\bPyState_FindModule\b|\bPyModule_Create2?\s*\("),
        "PyState_FindModule(&def);",
    ),
    "state of all interpreters": (
        re.compile(r"\bPyThread_tss_\w+|\bPyGILState_\w+|\bPy_AtExit\b"),
        "PyGILState_Ensure();",
    ),
}


def breaches(rule: re.Pattern[str], files: dict[str, str]) -> list[str]:
    """Return `file:line: text` of all places that break a rule."""
    return [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match[0].strip()}"
        for name, text in sorted(files.items())
        for match in rule.finditer(text)
    ]


@pytest.mark.parametrize("rule", ONLY_IN_COMPAT)
def test_only_compat_h_has(rule: str) -> None:
    pattern, example = ONLY_IN_COMPAT[rule]
    assert breaches(pattern, {"example.c": code(f"/* */\n{example}\n")}), "the rule finds nothing"
    files = sources()
    del files[COMPAT]
    assert breaches(pattern, files) == []


@pytest.mark.parametrize("rule", NOWHERE)
def test_no_file_has(rule: str) -> None:
    pattern, example = NOWHERE[rule]
    assert breaches(pattern, {"example.c": code(f"/* */\n{example}\n")}), "the rule finds nothing"
    assert breaches(pattern, sources()) == []


def test_what_comments_and_strings_say_breaks_no_rule() -> None:
    text = code('a("_PyDict_Next /*", \'"\'); /* _Py_1\n typeof */ b; // _Py_2\nc("\\"_Py_3");')
    assert text == 'a("", \'\'); \n b; \nc("");'


def test_compat_h_uses_only_the_private_names_that_it_has_reasons_for() -> None:
    assert set(PRIVATE_NAME.findall(sources()[COMPAT])) == PRIVATE_IN_COMPAT


def test_every_source_file_includes_python_through_compat_h() -> None:
    including = {
        name
        for name in sources()
        if re.search(r"# *include *<Python\.h>", (SRC / name).read_text(encoding="utf-8"))
    }
    assert including == {COMPAT}


# Types


# Types without `tp_clear`, and why they need none.
WITHOUT_CLEAR = {
    "counter_spec": "it refers to nothing but its type",
    "no_loop_spec": "it refers to nothing but its type",
    "emitter_spec": "it refers to its bus, which has one",
    "registrar_spec": "it refers to its bus, which has one, and to what a caller has made",
}
# Types without `tp_dealloc`.
WITHOUT_DEALLOC = {"lazy_spec": "the one that its base class brings calls `tp_clear`"}

SPEC = re.compile(r"\bPyType_Spec\s+(\w+)\s*=\s*\{(.*?)\n\s*\};", re.DOTALL)


def specs() -> Iterator[tuple[str, str, str]]:
    """Yield name, text and the text of the slots of each type that the core makes."""
    for text in sources().values():
        for spec in SPEC.finditer(text):
            slots = re.search(r"\.slots\s*=\s*(\w+)", spec[2])
            assert slots is not None, f"{spec[1]} names no table of slots"
            table = re.search(rf"\bPyType_Slot {slots[1]}\[\] = \{{(.*?)\n *\}};", text, re.DOTALL)
            assert table is not None, f"no table {slots[1]}"
            yield slots[1].replace("slots", "spec"), spec[2], table[1]


def slot(slots: str, name: str) -> str:
    """Return the name of the function in a slot, or "" where the slot is not in the table."""
    found = re.search(rf"\{{ *Py_tp_{name}, *(\w+) *\}}", slots)
    return "" if found is None else found[1]


def test_every_type_is_made_by_a_spec_with_gc_traverse_clear_and_dealloc() -> None:
    names = []
    for name, spec, slots in specs():
        names.append(name)
        assert "Py_TPFLAGS_HAVE_GC" in spec, name
        assert slot(slots, "traverse"), name
        assert bool(slot(slots, "clear")) == (name not in WITHOUT_CLEAR), name
        assert bool(slot(slots, "dealloc")) == (name not in WITHOUT_DEALLOC), name
    assert {*WITHOUT_CLEAR, *WITHOUT_DEALLOC} < set(names)
    made = sum(len(re.findall(r"\bPyType_Spec\b", text)) for text in sources().values())
    # Two more: the definition and the prototype of aeb_state_add_type().
    assert made == len(names) + 2, "there is a spec that this test does not understand"


def test_every_traverse_visits_the_type_and_every_dealloc_untracks_first() -> None:
    texts = "\n".join(sources().values())
    for name, _, slots in specs():
        assert "Py_VISIT(Py_TYPE(" in body(texts, slot(slots, "traverse")), name
        if name not in WITHOUT_DEALLOC:
            dealloc = body(texts, slot(slots, "dealloc"))
            assert "PyObject_GC_UnTrack(" in dealloc, name
            assert not re.search(r"\b(?:Py_X?DECREF|Py_CLEAR)\b", dealloc.partition("UnTrack")[0])
            assert "Py_DECREF(type)" in dealloc, name


async def one_of_each_type() -> dict[type, object]:
    """Return an object of each type that the core has made in this interpreter."""
    bus = EventBus(history=1)

    async def pending(payload: object) -> None:
        await asyncio.Event().wait()

    bus.on("pending", pending)
    bus.emit("pending")
    await asyncio.sleep(0)
    bus.subscribe("event", str)
    emission = bus.emit_async("event")
    outcomes = bus.collect("event", "a payload")
    kept = [bus, bus.emitter("event"), bus.on("another"), emission, *bus.history(), *outcomes]
    # What the state of the module refers to: all types, and the stand-in for a loop.
    known = gc.get_referents(_core)
    types = [o if isinstance(o, type) else type(o) for o in known]
    of_core = {cls for cls in types if cls.__module__ in MODULES and cls.__name__ != "NoLoopError"}
    found: dict[type, object] = {}
    # Plans, counters and deliveries are known to the garbage collector alone.
    for candidate in [*kept, *known, *gc.get_objects()]:
        for cls in type(candidate).__mro__:
            if cls in of_core:
                found.setdefault(cls, candidate)
    emission.close()
    await bus.aclose()
    return found


MODULES = ("agent_event_bus", "agent_event_bus._core")
CORE_TYPES = {
    *("EventBus", "Counter", "Emission", "Emitter", "Event", "HandlerTask", "Outcome", "Plan"),
    *("Registrar", "Subscription"),
}


async def test_every_type_is_a_heap_type_with_gc_that_its_objects_are_seen_to_refer_to() -> None:
    objects = await one_of_each_type()
    names = {cls.__name__ for cls in objects}
    assert CORE_TYPES <= names <= CORE_TYPES | {"LazyTask", "NoLoop"}
    for made, example in objects.items():
        name, cls = made.__name__, type(example)
        assert made.__flags__ & 1 << 9, f"{name} is no heap type"
        assert cls.__flags__ & 1 << 9, f"{name} is no heap type"
        assert cls.__flags__ & 1 << 14, f"{name} has no GC"
        assert gc.is_tracked(example), name
        # Once: a type that is visited twice would seem to be garbage when it is not.
        assert [r for r in gc.get_referents(example) if r is cls] == [cls], name


def body(text: str, function: str) -> str:
    """Return the body of a C function that is laid out as clang-format does it."""
    found = re.search(rf"^{function}\([^;{{]*?\)\n\{{\n(.*?)^\}}$", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"no function {function}"
    return found[1]


# Mutable globals


# The tables that the C API wants. All but the definition of the module, whose fields CPython itself
# guards, are only read, and are not `const` because until 3.13 no function would have taken them.
TABLES = (
    "PyModuleDef",
    "PyModuleDef_Slot",
    "PyMethodDef",
    "PyMemberDef",
    "PyGetSetDef",
    "PyType_Slot",
    "PyType_Spec",
    r"char \*",  # names of arguments
)
TABLE = re.compile(rf"^\s*(?:static )?(?:{'|'.join(TABLES)}) ?(\w+)(?:\[\])? = ", re.MULTILINE)

# What compilers and linkers add to a shared object.
OF_THE_LINKER = re.compile(r"__dso_handle|__TMC_END__|completed\.\d+|\.\w+|_\w*_|__frame_\w+")


def tables() -> set[str]:
    """Return the names of all tables of the C API that src/ defines."""
    return {name for text in sources().values() for name in TABLE.findall(text)}


def binutils(*command: str) -> str:
    """Return what a tool says about the extension module, or skip the test."""
    if not sys.platform.startswith("linux"):
        pytest.skip("sections have these names in ELF files only")
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]} on this machine")
    assert _core.__file__ is not None
    done = subprocess.run(
        [*command, _core.__file__], capture_output=True, encoding="utf-8", check=True, timeout=60
    )
    if re.search(r"\b__(?:asan|tsan|ubsan|gcov)_", done.stdout):
        pytest.skip("an instrumented build has mutable objects of its own")
    return done.stdout


def writable_symbols(table: str) -> set[str]:
    """Return the objects in writable sections, from the output of `objdump --syms`."""
    # .data.rel.ro is read-only once the loader has put the addresses in.
    symbols = re.findall(
        r"^[0-9a-f]+ .{7} (\.(?:data|bss|tdata|tbss)(?!\.rel\.ro)\S*|\*COM\*)\t[0-9a-f]+"
        r"\s+(?:\.hidden )?(\S+)$",
        table,
        re.MULTILINE,
    )
    return {name for _, name in symbols if not OF_THE_LINKER.fullmatch(name)}


def test_the_compiled_core_has_no_mutable_globals() -> None:
    symbols = writable_symbols(binutils("objdump", "--syms"))
    if not symbols:
        pytest.skip("the extension module has been stripped")
    assert "aeb_module_def" in symbols
    # The compiler numbers those that are local to a function.
    unexplained = {name for name in symbols if re.sub(r"\.\d+$", "", name) not in tables()}
    assert unexplained == set()


def test_a_mutable_global_would_be_seen() -> None:
    table = (
        "0000000000004010 l     O .bss\t0000000000000008              n_calls.0\n"
        "0000000000004000 g     O .data\t0000000000000008              .hidden last\n"
        "0000000000004020 l     O .bss\t0000000000000001              completed.0\n"
        "0000000000003000 l     O .data.rel.ro\t0000000000000010              names.1\n"
        "0000000000002000 l     O .rodata\t0000000000000010              texts\n"
        "0000000000004030 l     O .tbss\t0000000000000008              of_thread\n"
    )
    assert writable_symbols(table) == {"n_calls.0", "last", "of_thread"}
    assert not {"n_calls", "last", "of_thread"} & tables()


def writes(files: dict[str, str]) -> list[str]:
    """Return the places where a table of the C API, or something in one, is assigned to."""
    # The table of one function's own is its local variable.
    names = "|".join(sorted(tables() - {"spec", "slots"}))
    target = rf"(?:^|[;{{}}(])[ \t]*(?:{names})(?:\[[^]]*\])?(?:\.\w+)*\s*"
    return breaches(re.compile(rf"{target}(?:[-+|&^]|<<|>>)?=(?!=)", re.MULTILINE), files)


def test_no_table_of_the_c_api_is_written_to() -> None:
    planted = "    bus_methods[0].ml_doc = NULL;\n    (bus_spec.flags |= 1);"
    assert len(writes({"example.c": planted})) == 2, "the rule finds nothing"
    assert writes(sources()) == []


# Private functions that public macros and inline functions of some version expand to.
BEHIND_PUBLIC_NAMES = re.compile(
    r"_PyArg_\w+_SizeT|_Py_BuildValue_SizeT|_PyObject_Call\w+_SizeT"  # with PY_SSIZE_T_CLEAN
    r"|_Py_(?:Dealloc|NoneStruct|TrueStruct|FalseStruct|NotImplementedStruct|EllipsisObject)"
    r"|_Py_(?:DecRef|IncRef|RefTotal|DecRefShared\w*|MergeZeroLocalRefcount|NegativeRefcount)"
    r"|_Py_(?:INCREF|DECREF)_\w+|_PyTrash_\w+|_PyThreadState_UncheckedGet|_PyUnicode_Ready|_PyWeakref_\w+Type"
    r"|_PyObject_NextNotImplemented|_PyObject_MakeTpCall|_Py_CheckFunctionResult|_PyObject_GC_\w+|_PyErr_\w+Unraisable\w*"
)


def test_the_compiled_core_calls_no_private_function_beyond_those_of_compat_h() -> None:
    undefined = re.findall(r"\bU (\w+)", binutils("nm", "--dynamic", "--undefined-only"))
    assert "PyObject_Vectorcall" in undefined or "PyType_FromModuleAndSpec" in undefined
    private = {name for name in undefined if PRIVATE_NAME.fullmatch(name)}
    assert {n for n in private if not BEHIND_PUBLIC_NAMES.fullmatch(n)} <= PRIVATE_IN_COMPAT
