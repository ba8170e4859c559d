/* Version differences of the CPython C API, 3.9 to 3.14, and nothing else.
 *
 * Every room includes this header instead of <Python.h>.  A construct that only some supported
 * interpreter or compiler understands belongs here, so that the other files read as plain C11.
 */
#ifndef AEB_COMPAT_H
#define AEB_COMPAT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#ifdef _WIN32
#include <process.h>
#include <windows.h>
#define aeb_getpid() ((long)_getpid())
#else
#include <unistd.h>
#define aeb_getpid() ((long)getpid())
#endif

#if PY_VERSION_HEX < 0x03090000
#error "agent_event_bus needs CPython 3.9 or newer"
#endif

#if defined(__GNUC__) || defined(__clang__)
#define AEB_LIKELY(x) __builtin_expect(!!(x), 1)
#define AEB_UNLIKELY(x) __builtin_expect(!!(x), 0)
#else
#define AEB_LIKELY(x) (x)
#define AEB_UNLIKELY(x) (x)
#endif

/* For functions with a hot caller and a rare one. */
#if defined(__GNUC__) || defined(__clang__)
#define AEB_ALWAYS_INLINE static inline __attribute__((always_inline))
#define AEB_NOINLINE static __attribute__((noinline))
#else
#define AEB_ALWAYS_INLINE static inline
#define AEB_NOINLINE static
#endif

/* Methods taking (PyObject *const *, Py_ssize_t) are stored as PyCFunction by design of the API;
 * the detour over void (*)(void) tells the compiler that the mismatch is meant. */
#define AEB_METHOD(func) ((PyCFunction)(void (*)(void))(func))

/* Types that users must not instantiate.  3.9 has no flag for it: see aeb_state_add_type(). */
#ifndef Py_TPFLAGS_DISALLOW_INSTANTIATION
#define Py_TPFLAGS_DISALLOW_INSTANTIATION 0
#endif
#ifndef Py_TPFLAGS_IMMUTABLETYPE
#define Py_TPFLAGS_IMMUTABLETYPE 0
#endif

#if PY_VERSION_HEX < 0x030A0000
static inline PyObject *
aeb_new_ref(PyObject *obj)
{
    Py_INCREF(obj);
    return obj;
}
#define Py_NewRef(obj) aeb_new_ref((PyObject *)(obj))

static inline PyObject *
aeb_xnew_ref(PyObject *obj)
{
    Py_XINCREF(obj);
    return obj;
}
#define Py_XNewRef(obj) aeb_xnew_ref((PyObject *)(obj))

typedef enum {
    PYGEN_RETURN = 0,
    PYGEN_ERROR = -1,
    PYGEN_NEXT = 1,
} PySendResult;
#endif

/* The pending exception as one normalised object; NULL when none is set. */
static inline PyObject *
aeb_take_exception(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (type == NULL) {
        return NULL;
    }
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL) {
        (void)PyException_SetTraceback(value, traceback);
        Py_DECREF(traceback);
    }
    Py_DECREF(type);
    return value;
#endif
}

/* Makes exc the pending exception; NULL clears it. */
static inline void
aeb_restore_exception_steal(PyObject *exc)
{
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(exc);
#else
    if (exc == NULL) {
        PyErr_Clear();
        return;
    }
    PyErr_Restore(Py_NewRef((PyObject *)Py_TYPE(exc)), exc, PyException_GetTraceback(exc));
#endif
}

/* The value carried by a pending StopIteration, which is cleared (None when the iterator ended
 * without an exception).  NULL, with the exception left set, when it is any other. */
static inline PyObject *
aeb_fetch_stop_iteration(void)
{
    if (!PyErr_Occurred()) {
        return Py_NewRef(Py_None);
    }
    if (!PyErr_ExceptionMatches(PyExc_StopIteration)) {
        return NULL;
    }
    PyObject *exc = aeb_take_exception();
    if (!PyErr_GivenExceptionMatches(exc, PyExc_StopIteration)) {
        aeb_restore_exception_steal(exc); /* out of memory while it was normalised */
        return NULL;
    }
    PyObject *value = Py_NewRef(((PyStopIterationObject *)exc)->value != NULL
                                    ? ((PyStopIterationObject *)exc)->value
                                    : Py_None);
    Py_DECREF(exc);
    return value;
}

/* PyIter_Send (3.10): one step of a coroutine-like iterator, without a StopIteration object where
 * the interpreter can avoid it. */
static inline PySendResult
aeb_iter_send(PyObject *iterator, PyObject *value, PyObject **result)
{
#if PY_VERSION_HEX >= 0x030A0000
    return PyIter_Send(iterator, value, result);
#else
    if (value == Py_None && PyIter_Check(iterator)) {
        *result = Py_TYPE(iterator)->tp_iternext(iterator);
    }
    else {
        *result = PyObject_CallMethod(iterator, "send", "O", value);
    }
    if (*result != NULL) {
        return PYGEN_NEXT;
    }
    *result = aeb_fetch_stop_iteration();
    return *result != NULL ? PYGEN_RETURN : PYGEN_ERROR;
#endif
}

/* The first step of a coroutine object. */
static inline PySendResult
aeb_coroutine_start(PyObject *coroutine, PyObject **result)
{
#if PY_VERSION_HEX >= 0x030A0000
    return Py_TYPE(coroutine)->tp_as_async->am_send(coroutine, Py_None, result);
#else
    return aeb_iter_send(coroutine, Py_None, result);
#endif
}

/* The module that defined `type` or one of its bases: borrowed, NULL with TypeError. */
static inline PyObject *
aeb_module_of_type(PyTypeObject *type, PyModuleDef *def)
{
#if PY_VERSION_HEX >= 0x030B0000
    return PyType_GetModuleByDef(type, def);
#else
    PyObject *mro = type->tp_mro;
    for (Py_ssize_t i = 0; mro != NULL && i < PyTuple_GET_SIZE(mro); i++) {
        PyTypeObject *base = (PyTypeObject *)PyTuple_GET_ITEM(mro, i);
        if (!PyType_HasFeature(base, Py_TPFLAGS_HEAPTYPE)) {
            continue;
        }
        PyObject *module = ((PyHeapTypeObject *)base)->ht_module;
        if (module != NULL && PyModule_Check(module) && PyModule_GetDef(module) == def) {
            return module;
        }
    }
    PyErr_Format(PyExc_TypeError, "%s has no base class from agent_event_bus", type->tp_name);
    return NULL;
#endif
}

/* Calls a builtin that takes its arguments as an array (as those of asyncio's C module do) without
 * the detours of PyObject_Vectorcall: for the few calls that are made in every emit_async. */
static inline PyObject *
aeb_call_builtin(PyObject *callable, PyObject *const *args, Py_ssize_t nargs)
{
    if (AEB_LIKELY(PyCFunction_CheckExact(callable))) {
        PyCFunction function = PyCFunction_GET_FUNCTION(callable);
        PyObject *self = PyCFunction_GET_SELF(callable);
        int flags = PyCFunction_GET_FLAGS(callable);
        if (flags == (METH_FASTCALL | METH_KEYWORDS)) {
            _PyCFunctionFastWithKeywords fast =
                (_PyCFunctionFastWithKeywords)(void (*)(void))function;
            return fast(self, args, nargs, NULL);
        }
        if (flags == METH_NOARGS && nargs == 0) {
            return function(self, NULL);
        }
    }
    return PyObject_Vectorcall(callable, args, (size_t)nargs, NULL);
}

/* asyncio's table of current tasks is looked up three times in every emit_async, always by the same
 * loop.  Before 3.14 its own C code does that with these functions, which hash the key once. */
#if PY_VERSION_HEX >= 0x030D0000 && PY_VERSION_HEX < 0x030E0000
PyAPI_FUNC(int) _PyDict_SetItem_KnownHash(PyObject *, PyObject *, PyObject *, Py_hash_t);
#endif
#if PY_VERSION_HEX < 0x030E0000
#define aeb_dict_get_hashed _PyDict_GetItem_KnownHash
#define aeb_dict_set_hashed _PyDict_SetItem_KnownHash
#else
#define aeb_dict_get_hashed(dict, key, hash) PyDict_GetItemWithError(dict, key)
#define aeb_dict_set_hashed(dict, key, value, hash) PyDict_SetItem(dict, key, value)
#endif

/* Deallocating a long chain of objects that hold each other must not use up the C stack. */
#define AEB_TRASHCAN_BEGIN(self, dealloc) Py_TRASHCAN_BEGIN(self, dealloc)
#define AEB_TRASHCAN_END Py_TRASHCAN_END

/* Fields of CPython's own objects that the API has no function for, or none that just looks.  What is
 * returned is borrowed. */
static inline int
aeb_code_flags(PyObject *code)
{
    return ((PyCodeObject *)code)->co_flags;
}

static inline PyObject *
aeb_function_name(PyObject *function)
{
    return ((PyFunctionObject *)function)->func_name;
}

static inline PyObject *
aeb_function_qualname(PyObject *function)
{
    return ((PyFunctionObject *)function)->func_qualname;
}

static inline PyObject *
aeb_heap_type_qualname(PyTypeObject *type)
{
    return ((PyHeapTypeObject *)type)->ht_qualname;
}

/* Whether a weak reference refers to `target`, which is alive. */
static inline bool
aeb_weakref_refers_to(PyObject *reference, PyObject *target)
{
    return ((PyWeakReference *)reference)->wr_object == target;
}

/* What a weak reference refers to, a new reference; NULL, without an exception, when that is gone. */
static inline PyObject *
aeb_weakref_get(PyObject *reference)
{
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *target;
    if (!PyWeakref_Check(reference) || PyWeakref_GetRef(reference, &target) < 0) {
        return NULL;
    }
    return target;
#else
    PyObject *target = PyWeakref_Check(reference) ? PyWeakref_GET_OBJECT(reference) : Py_None;
    return target == Py_None ? NULL : Py_NewRef(target);
#endif
}

/* What time.time() returns: seconds since the epoch. */
static inline double
aeb_time(void)
{
    struct timespec now;
    (void)timespec_get(&now, TIME_UTC);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Seconds since some moment in the past, on a clock that nobody sets. */
static inline double
aeb_monotonic(void)
{
#ifdef _WIN32
    return (double)GetTickCount64() * 1e-3;
#else
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
#endif
}

/* The same in nanoseconds, never 0, as precise as the platform has it. */
static inline uint64_t
aeb_monotonic_ns(void)
{
#ifdef _WIN32
    LARGE_INTEGER now, frequency;
    QueryPerformanceCounter(&now);
    QueryPerformanceFrequency(&frequency);
    uint64_t ticks = (uint64_t)now.QuadPart, rate = (uint64_t)frequency.QuadPart;
    return ticks / rate * 1000000000u + ticks % rate * 1000000000u / rate + 1;
#else
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec + 1;
#endif
}

/* The number of the highest bit that is set in a number other than 0. */
static inline unsigned
aeb_highest_bit(uint64_t number)
{
#if defined(__GNUC__) || defined(__clang__)
    return 63u - (unsigned)__builtin_clzll(number);
#else
    unsigned bit = 0;
    while (number >>= 1) {
        bit++;
    }
    return bit;
#endif
}

#endif
