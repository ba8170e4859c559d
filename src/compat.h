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

/* ---- threads ---------------------------------------------------------------------------------
 *
 * With a GIL, one thread at a time is in our code, and it can be another one only after a call that
 * may run Python code.  In builds without it (3.13t, 3.14t) what the GIL did is done by
 *
 *   - AEB_LOCK(object) ... AEB_UNLOCK(): the critical section of one object.  As with the GIL, it may
 *     be given up in calls that may run Python code, and in nothing else that is done under it, as
 *     what it guards is never locked by anybody else.  Neither return nor goto may leave it.
 *   - AEB_LOAD, AEB_STORE and AEB_ADD, which gives the sum, for single fields, which are declared with
 *     AEB_SHARED.
 *
 * Both are written as if there were always other threads, and cost nothing where there is a GIL. */
#ifdef Py_GIL_DISABLED
#define AEB_LOCK(object) Py_BEGIN_CRITICAL_SECTION(object)
#define AEB_UNLOCK() Py_END_CRITICAL_SECTION()
#else
#define AEB_LOCK(object)                                                                           \
    {                                                                                              \
        (void)(object);
#define AEB_UNLOCK() }
#endif

#ifndef Py_GIL_DISABLED
#define AEB_SHARED
#define AEB_LOAD(field) (field)
#define AEB_STORE(field, value) ((void)((field) = (value)))
#define AEB_ADD(number, n) ((number) += (n))
#elif defined(_MSC_VER) /* with /volatile:ms, see setup.py */
#include <intrin.h>
#define AEB_SHARED volatile
#define AEB_LOAD(field) (field)
#define AEB_STORE(field, value) ((void)((field) = (value)))
#define AEB_ADD(number, n)                                                                         \
    (_InterlockedExchangeAdd64((volatile __int64 *)&(number), (__int64)(n)) + (n))
#else
#define AEB_SHARED
#define AEB_LOAD(field) __atomic_load_n(&(field), __ATOMIC_ACQUIRE)
#define AEB_STORE(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELEASE)
#define AEB_ADD(number, n) __atomic_add_fetch(&(number), (n), __ATOMIC_RELAXED)
#endif

/* Without a GIL, reference counts do not tell objects that are unknown to anybody else, and there are no
 * lists of objects for reuse, which all threads would have to share. */
#ifdef Py_GIL_DISABLED
#define AEB_HAS_GIL 0
#else
#define AEB_HAS_GIL 1
#endif

/* Fills a field that is filled once, by the first who comes. */
static inline void
aeb_fill_once(PyObject *AEB_SHARED *slot, PyObject *value_steal)
{
#ifndef Py_GIL_DISABLED
    PyObject *before = *slot;
    *slot = before == NULL ? value_steal : before;
#elif defined(_MSC_VER)
    PyObject *before =
        _InterlockedCompareExchangePointer((void *volatile *)slot, value_steal, NULL);
#else
    PyObject *before = NULL;
    (void)__atomic_compare_exchange_n(slot, &before, value_steal, false, __ATOMIC_ACQ_REL,
                                      __ATOMIC_ACQUIRE);
#endif
    if (before != NULL) {
        Py_DECREF(value_steal);
    }
}

/* Makes a number at least as large as `value`. */
static inline void
aeb_raise_to(AEB_SHARED uint64_t *number, uint64_t value)
{
#ifndef Py_GIL_DISABLED
    *number = value > *number ? value : *number;
#else
    uint64_t before = AEB_LOAD(*number);
    while (before < value) {
#ifdef _MSC_VER
        uint64_t found = (uint64_t)_InterlockedCompareExchange64((volatile __int64 *)number,
                                                                 (__int64)value, (__int64)before);
        if (found == before) {
            break;
        }
        before = found;
#else
        if (__atomic_compare_exchange_n(number, &before, value, true, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED)) {
            break;
        }
#endif
    }
#endif
}

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

/* dict[key]: 1 with a new reference, 0 where there is none, -1 with an exception.  For dicts that are
 * not ours: another thread may drop the item meanwhile. */
static inline int
aeb_dict_get(PyObject *dict, PyObject *key, PyObject **item)
{
#if PY_VERSION_HEX >= 0x030D0000
    return PyDict_GetItemRef(dict, key, item);
#else
    *item = Py_XNewRef(PyDict_GetItemWithError(dict, key));
    return *item != NULL ? 1 : PyErr_Occurred() ? -1 : 0;
#endif
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
