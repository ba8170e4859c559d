/* Lets memory allocations of one extension module fail, and no others.
 *
 * An allocation counts as the module's when it is made by its code, or by what its code has called in
 * C.  It does not when Python code or another extension module is in between: how the interpreter
 * itself copes with a lack of memory is not what is tested.  That is told from the stack, by the first
 * return address on it that is in the module, in the evaluation loop or in one of the libraries and
 * functions that are named to it.
 *
 * For Linux with glibc, or what is like it, and for tests only.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1 /* as some pyconfig.h do, too */
#endif
#include <Python.h>
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <unwind.h>

#define MAX_RANGES 64
#define MAX_SITES 4096
#define MAX_FRAMES 64

typedef struct {
    uintptr_t low;
    uintptr_t high;
} range;

static range ours[MAX_RANGES], others[MAX_RANGES];
static size_t n_ours, n_others;
static uintptr_t
    ours_base; /* where the module is loaded: sites are told as what the linker knows */
static PyMemAllocatorEx base[3];

static volatile bool armed;
static pthread_t armed_thread;
static Py_ssize_t first, last, n_seen, n_failed;
static uintptr_t sites[MAX_SITES]; /* where in the module a call has run out of memory */
static size_t n_sites;
static uintptr_t site; /* the last one */

static bool
is_in(const range *ranges, size_t n, uintptr_t address)
{
    for (size_t i = 0; i < n; i++) {
        if (address >= ranges[i].low && address < ranges[i].high) {
            return true;
        }
    }
    return false;
}

/* The functions that call the evaluation loop.  They, too, are the interpreter's, for they make and
 * take down the frames of Python code; and a compiler may have moved what the loop seldom does, such as
 * to add a traceback, to a place without a name, which has the same callers.  They are learned from the
 * stacks on which the loop is where its name says. */
static uintptr_t callers[MAX_RANGES];
static size_t n_callers;
static range loop;

typedef struct {
    int depth;
    bool in_loop; /* the frame before this one was that of the loop */
    uintptr_t site;
} walk;

static bool
calls_loop(uintptr_t function)
{
    for (size_t i = 0; i < n_callers; i++) {
        if (callers[i] == function) {
            return true;
        }
    }
    return false;
}

static _Unwind_Reason_Code
look_at_frame(struct _Unwind_Context *context, void *arg)
{
    walk *at = arg;
    uintptr_t address = (uintptr_t)_Unwind_GetIP(context);
    uintptr_t function = (uintptr_t)_Unwind_GetRegionStart(context);
    bool calls = calls_loop(function);
    if (at->in_loop && !calls && !is_in(&loop, 1, address) && n_callers < MAX_RANGES) {
        callers[n_callers++] = function;
    }
    if (at->in_loop || calls) {
        return _URC_END_OF_STACK;
    }
    if (is_in(ours, n_ours, address)) {
        at->site = address;
        return _URC_END_OF_STACK;
    }
    at->in_loop = is_in(&loop, 1, address);
    return is_in(others, n_others, address) || at->depth++ > MAX_FRAMES ? _URC_END_OF_STACK
                                                                        : _URC_NO_REASON;
}

/* Whether the allocation that is being made is to fail. */
static bool
fails(void)
{
    if (!armed || !pthread_equal(armed_thread, pthread_self())) {
        return false;
    }
    walk at = {0, false, 0};
    _Unwind_Backtrace(look_at_frame, &at);
    if (at.site == 0) {
        return false;
    }
    Py_ssize_t number = n_seen++;
    if (number < first || (last > 0 && number >= last)) {
        return false;
    }
    n_failed++;
    site = at.site;
    for (size_t i = 0; i < n_sites; i++) {
        if (sites[i] == at.site) {
            return true;
        }
    }
    if (n_sites < MAX_SITES) {
        sites[n_sites++] = at.site;
    }
    return true;
}

static void *
failing_malloc(void *ctx, size_t size)
{
    PyMemAllocatorEx *to = ctx;
    return fails() ? NULL : to->malloc(to->ctx, size);
}

static void *
failing_calloc(void *ctx, size_t n, size_t size)
{
    PyMemAllocatorEx *to = ctx;
    return fails() ? NULL : to->calloc(to->ctx, n, size);
}

static void *
failing_realloc(void *ctx, void *memory, size_t size)
{
    PyMemAllocatorEx *to = ctx;
    return fails() ? NULL : to->realloc(to->ctx, memory, size);
}

static void
plain_free(void *ctx, void *memory)
{
    PyMemAllocatorEx *to = ctx;
    to->free(to->ctx, memory);
}

static void
add_range(range *ranges, size_t *n, uintptr_t low, uintptr_t high)
{
    if (*n < MAX_RANGES) {
        ranges[(*n)++] = (range){low, high};
    }
}

typedef struct {
    const char *path;
    range *ranges;
    size_t *n;
} wanted_library;

static int
add_library(struct dl_phdr_info *info, size_t Py_UNUSED(size), void *arg)
{
    const wanted_library *wanted = arg;
    if (info->dlpi_name == NULL || strcmp(info->dlpi_name, wanted->path) != 0) {
        return 0;
    }
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        if (segment->p_type == PT_LOAD && (segment->p_flags & PF_X)) {
            uintptr_t low = info->dlpi_addr + segment->p_vaddr;
            add_range(wanted->ranges, wanted->n, low, low + segment->p_memsz);
            ours_base = wanted->ranges == ours ? info->dlpi_addr : ours_base;
        }
    }
    return 0;
}

static PyObject *
add_path(PyObject *path, range *ranges, size_t *n)
{
    size_t before = *n;
    wanted_library wanted = {PyUnicode_AsUTF8(path), ranges, n};
    if (wanted.path == NULL) {
        return NULL;
    }
    dl_iterate_phdr(add_library, &wanted);
    return PyBool_FromLong(*n > before);
}

/* watch(path): the module whose allocations fail.  Whether it is loaded. */
static PyObject *
allocator_watch(PyObject *Py_UNUSED(module), PyObject *path)
{
    return add_path(path, ours, &n_ours);
}

/* stop_at(path): a library that is none of the module's business.  Whether it is loaded. */
static PyObject *
allocator_stop_at(PyObject *Py_UNUSED(module), PyObject *path)
{
    return add_path(path, others, &n_others);
}

/* Where the code of a function is, by its name.  Whether there is such a function. */
static bool
find_function(PyObject *name, range *found)
{
    const char *text = PyUnicode_AsUTF8(name);
    Dl_info info;
    ElfW(Sym) *symbol = NULL;
    void *function = text == NULL ? NULL : dlsym(RTLD_DEFAULT, text);
    if (function == NULL || !dladdr1(function, &info, (void **)&symbol, RTLD_DL_SYMENT) ||
        symbol == NULL) {
        return false;
    }
    *found = (range){(uintptr_t)function, (uintptr_t)function + symbol->st_size};
    return true;
}

/* loop_is(name): the function that runs Python code.  Whether there is such a function. */
static PyObject *
allocator_loop_is(PyObject *Py_UNUSED(module), PyObject *name)
{
    return PyBool_FromLong(find_function(name, &loop));
}

/* spare(name): a function whose allocations do not fail.  Whether there is such a function. */
static PyObject *
allocator_spare(PyObject *Py_UNUSED(module), PyObject *name)
{
    range found;
    if (!find_function(name, &found)) {
        Py_RETURN_FALSE;
    }
    add_range(others, &n_others, found.low, found.high);
    Py_RETURN_TRUE;
}

static const PyMemAllocatorDomain domains[] = {PYMEM_DOMAIN_RAW, PYMEM_DOMAIN_MEM,
                                               PYMEM_DOMAIN_OBJ};

/* start(first, last): the module's allocations from number `first` on fail, up to `last` exclusive; all
 * of them when that is 0.  Only those of the calling thread. */
static PyObject *
allocator_start(PyObject *Py_UNUSED(module), PyObject *args)
{
    if (!PyArg_ParseTuple(args, "nn", &first, &last)) {
        return NULL;
    }
    n_seen = n_failed = 0;
    site = 0;
    armed_thread = pthread_self();
    armed = true;
    Py_RETURN_NONE;
}

/* stop(): how many allocations of the module there were, and how many of them have failed. */
static PyObject *
allocator_stop(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    armed = false;
    return Py_BuildValue("nn", n_seen, n_failed);
}

/* sites(): at how many places in the module an allocation has failed. */
static PyObject *
allocator_sites(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list != NULL && i < n_sites; i++) {
        PyObject *site = PyLong_FromSize_t((size_t)(sites[i] - ours_base));
        if (site == NULL || PyList_Append(list, site) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(site);
    }
    return list;
}

/* site(): the offset in the module of the call that ran out of memory last; 0 when none has. */
static PyObject *
allocator_site(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromSize_t(site == 0 ? 0 : (size_t)(site - ours_base));
}

static PyMethodDef methods[] = {
    {"watch", allocator_watch, METH_O, NULL},
    {"stop_at", allocator_stop_at, METH_O, NULL},
    {"loop_is", allocator_loop_is, METH_O, NULL},
    {"spare", allocator_spare, METH_O, NULL},
    {"start", allocator_start, METH_VARARGS, NULL},
    {"stop", allocator_stop, METH_NOARGS, NULL},
    {"sites", allocator_sites, METH_NOARGS, NULL},
    {"site", allocator_site, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static int
allocator_exec(PyObject *Py_UNUSED(module))
{
    for (size_t i = 0; i < 3; i++) {
        PyMemAllocatorEx failing = {&base[i], failing_malloc, failing_calloc, failing_realloc,
                                    plain_free};
        PyMem_GetAllocator(domains[i], &base[i]);
        PyMem_SetAllocator(domains[i], &failing);
    }
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, allocator_exec},
    {0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "failing_allocator",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit_failing_allocator(void)
{
    return PyModuleDef_Init(&definition);
}
