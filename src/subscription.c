/* Subscription: one handler, what it is subscribed to, its options and its counters.
 *
 * Everything that can be known about a handler is found out here, once, when it is registered: what
 * kind of callable it is, and so whether an emission may call it inline.  Handlers are strangers:
 * their __eq__, __hash__ and __repr__ are never called.
 */
#include "subscription.h"

#include "weak.h"

int
aeb_clear_ordinary_exception(void)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception)) {
        return -1;
    }
    PyErr_Clear();
    return 0;
}

int
aeb_get_attribute(PyObject *obj, const char *name, PyObject **result)
{
    Py_INCREF(obj);
    *result = PyObject_GetAttrString(obj, name);
    Py_DECREF(obj);
    if (*result == NULL && PyErr_ExceptionMatches(PyExc_MemoryError)) {
        return -1; /* whether there is one is not known */
    }
    return *result == NULL ? aeb_clear_ordinary_exception() : 0;
}

/* dict[name]: *item is a new reference, or NULL where there is none.  0 or -1. */
static int
get_item(PyObject *dict, const char *name, PyObject **item)
{
    PyObject *key = PyUnicode_FromString(name);
    *item = NULL;
    int found = key == NULL ? -1 : aeb_dict_get(dict, key, item);
    Py_XDECREF(key);
    return found < 0 ? -1 : 0;
}

int
aeb_loaded_attribute(const char *module_name, const char *name, PyObject **found)
{
    PyObject *modules = PyImport_GetModuleDict(), *module = NULL; /* none when Python shuts down */
    *found = NULL;
    if (modules != NULL && get_item(modules, module_name, &module) < 0) {
        return -1;
    }
    int status = 0;
    if (module != NULL && PyModule_Check(module)) {
        status = get_item(PyModule_GetDict(module), name, found);
    }
    Py_XDECREF(module);
    return status;
}

/* Whether an object is an instance of a class that has been imported already.  1, 0 or -1. */
static int
is_instance(PyObject *obj, const char *module_name, const char *class_name)
{
    PyObject *type;
    if (aeb_loaded_attribute(module_name, class_name, &type) < 0) {
        return -1;
    }
    int found = type != NULL && PyType_Check(type) && PyObject_TypeCheck(obj, (PyTypeObject *)type);
    Py_XDECREF(type);
    return found;
}

PyObject *
aeb_enum_value(PyObject *obj)
{
    PyObject *value;
    if (is_instance(obj, "enum", "Enum") <= 0) {
        return NULL;
    }
    (void)aeb_get_attribute(obj, "_value_", &value);
    return value;
}

int
aeb_is_partial(PyObject *callable)
{
    return is_instance(callable, "functools", "partial");
}

/* Follows bound methods and functools.partial objects down to what they call.  A new reference, or
 * NULL. */
static PyObject *
unwrap_callable(PyObject *callable)
{
    Py_INCREF(callable);
    for (int depth = 0; depth < 100; depth++) {
        if (PyMethod_Check(callable)) {
            Py_SETREF(callable, Py_NewRef(PyMethod_GET_FUNCTION(callable)));
            continue;
        }
        int partial = aeb_is_partial(callable);
        if (partial == 0) {
            break;
        }
        PyObject *next = partial < 0 ? NULL : PyObject_GetAttrString(callable, "func");
        Py_SETREF(callable, next);
        if (callable == NULL) {
            break;
        }
    }
    return callable;
}

/* The code flags of a Python function, 0 for anything else. */
static int
code_flags(PyObject *function)
{
    if (!PyFunction_Check(function)) {
        return 0;
    }
    return aeb_code_flags(PyFunction_GET_CODE(function));
}

/* inspect.markcoroutinefunction and unittest.mock leave a marker on what they mark.  Nobody can
 * hold a marker of a module that was never imported, so nothing is imported to look. */
static int
has_coroutine_marker(PyObject *obj)
{
    static const struct {
        const char *module, *marker, *attribute;
    } marks[] = {
        {"inspect", "_is_coroutine_mark", "_is_coroutine_marker"},
        {"inspect", "_is_coroutine_marker", "_is_coroutine_marker"}, /* its name before 3.12.3 */
        {"asyncio.coroutines", "_is_coroutine", "_is_coroutine"},
    };
    for (size_t i = 0; i < Py_ARRAY_LENGTH(marks); i++) {
        PyObject *marker, *found;
        if (aeb_loaded_attribute(marks[i].module, marks[i].marker, &marker) < 0) {
            return -1;
        }
        if (marker == NULL) {
            continue;
        }
        if (aeb_get_attribute(obj, marks[i].attribute, &found) < 0) {
            Py_DECREF(marker);
            return -1;
        }
        bool marked = found == marker;
        Py_XDECREF(found);
        Py_DECREF(marker);
        if (marked) {
            return 1;
        }
    }
    return 0;
}

/* What calling `callable` runs: its code flags (CO_COROUTINE is also set for marked callables). */
static int
callable_flags(PyObject *callable, int *flags)
{
    PyObject *target = unwrap_callable(callable);
    if (target == NULL) {
        return -1;
    }
    int marked = has_coroutine_marker(target);
    if (marked == 0 && !PyFunction_Check(target) && !PyType_Check(target)) {
        /* A callable object: what counts is the __call__ of its class. */
        PyObject *call;
        if (aeb_get_attribute((PyObject *)Py_TYPE(target), "__call__", &call) < 0) {
            marked = -1;
        }
        else if (call != NULL) {
            Py_SETREF(target, call);
            PyObject *inner = unwrap_callable(target);
            if (inner == NULL) {
                marked = -1;
            }
            else {
                Py_SETREF(target, inner);
                marked = has_coroutine_marker(target);
            }
        }
    }
    *flags = code_flags(target) | (marked > 0 ? CO_COROUTINE : 0);
    Py_DECREF(target);
    return marked < 0 ? -1 : 0;
}

int
aeb_is_coroutine_function(PyObject *callable)
{
    int flags;
    if (callable_flags(callable, &flags) < 0) {
        return -1;
    }
    return (flags & (CO_COROUTINE | CO_ITERABLE_COROUTINE)) != 0;
}

bool
aeb_same_handler(PyObject *a, PyObject *b)
{
    if (a == b) {
        return true;
    }
    /* obj.method makes a new object at each access.  The comparison of builtin methods is native
     * and compares identities; that of Python methods would compare the functions with ==. */
    if (PyMethod_Check(a) && PyMethod_Check(b)) {
        return PyMethod_GET_SELF(a) == PyMethod_GET_SELF(b) &&
               PyMethod_GET_FUNCTION(a) == PyMethod_GET_FUNCTION(b);
    }
    if (PyCFunction_CheckExact(a) && PyCFunction_CheckExact(b)) {
        return PyCFunction_GET_SELF(a) == PyCFunction_GET_SELF(b) &&
               PyCFunction_GET_FUNCTION(a) == PyCFunction_GET_FUNCTION(b);
    }
    return false;
}

bool
aeb_subscription_has_handler(aeb_subscription *sub, PyObject *handler)
{
    return sub->weak ? aeb_weak_same_handler(sub, handler)
                     : aeb_same_handler(sub->handler, handler);
}

PyObject *
aeb_subscription_handler(aeb_subscription *sub)
{
    return AEB_UNLIKELY(sub->weak) ? aeb_weak_handler(sub) : Py_NewRef(sub->handler);
}

PyObject *
aeb_handler_name(PyObject *handler)
{
    /* Without a GIL somebody might be renaming the function. */
    if (AEB_HAS_GIL && AEB_LIKELY(PyFunction_Check(handler))) {
        PyObject *qualname = aeb_function_qualname(handler);
        if (AEB_LIKELY(qualname != NULL && PyUnicode_CheckExact(qualname))) {
            return Py_NewRef(qualname);
        }
    }
    PyObject *target = unwrap_callable(handler), *name = NULL;
    if (target == NULL) {
        if (aeb_clear_ordinary_exception() < 0) {
            return NULL;
        }
        target = Py_NewRef(handler);
    }
    if (PyFunction_Check(target) || PyCFunction_Check(target) || PyType_Check(target) ||
        Py_TYPE(target)->tp_flags & Py_TPFLAGS_METHOD_DESCRIPTOR) {
        if (aeb_get_attribute(target, "__qualname__", &name) < 0) {
            Py_DECREF(target);
            return NULL;
        }
    }
    if (name == NULL || !PyUnicode_Check(name)) {
        Py_XDECREF(name);
        if (aeb_get_attribute((PyObject *)Py_TYPE(target), "__qualname__", &name) < 0) {
            Py_DECREF(target);
            return NULL;
        }
    }
    if (name == NULL || !PyUnicode_Check(name)) {
        Py_XDECREF(name);
        name = PyUnicode_FromString(Py_TYPE(target)->tp_name);
    }
    else if (!PyUnicode_CheckExact(name)) {
        Py_SETREF(name, PyUnicode_FromObject(name));
    }
    Py_DECREF(target);
    return name;
}

PyObject *
aeb_subscription_handler_name(aeb_subscription *sub)
{
    return sub->weak ? Py_NewRef(sub->weak_name) : aeb_handler_name(sub->handler);
}

PyObject *
aeb_class_name(PyTypeObject *type)
{
    PyObject *stored = aeb_class_stored_name(type);
    if (stored != NULL) {
        return PyUnicode_FromObject(stored); /* users may have set a subclass of str */
    }
    const char *last = strrchr(type->tp_name, '.');
    return PyUnicode_FromString(last == NULL ? type->tp_name : last + 1);
}

PyObject *
aeb_subscription_task_name(aeb_subscription *sub, PyObject *event_name)
{
    PyObject *known = NULL, *known_for = NULL;
    AEB_LOCK(sub);
    if (AEB_LIKELY(sub->task_event == event_name)) {
        known = Py_NewRef(sub->task_name);
    }
    AEB_UNLOCK();
    if (AEB_LIKELY(known != NULL)) {
        return known;
    }
    PyObject *handler = aeb_subscription_handler_name(sub);
    if (handler == NULL) {
        return NULL;
    }
    PyObject *name = PyUnicode_FromFormat("%U -> %U", event_name, handler);
    Py_DECREF(handler);
    if (name != NULL) {
        AEB_LOCK(sub);
        known_for = sub->task_event;
        known = sub->task_name;
        sub->task_event = Py_NewRef(event_name);
        sub->task_name = Py_NewRef(name);
        AEB_UNLOCK();
        Py_XDECREF(known_for);
        Py_XDECREF(known);
    }
    return name;
}

static int
check_handler(PyObject *handler, int *flags)
{
    if (!PyCallable_Check(handler)) {
        PyErr_Format(PyExc_TypeError, "handler must be callable, not %.200s",
                     Py_TYPE(handler)->tp_name);
        return -1;
    }
    if (callable_flags(handler, flags) < 0) {
        return -1;
    }
    bool async_generator = *flags & CO_ASYNC_GENERATOR;
    bool generator = (*flags & CO_GENERATOR) && !(*flags & (CO_ITERABLE_COROUTINE | CO_COROUTINE));
    if (async_generator || generator) {
        PyObject *name = aeb_handler_name(handler);
        if (name != NULL) {
            PyErr_Format(PyExc_TypeError,
                         "handler %U is %s function: calling it would run nothing of it", name,
                         async_generator ? "an async generator" : "a generator");
            Py_DECREF(name);
        }
        return -1;
    }
    return 0;
}

aeb_subscription *
aeb_subscription_new(aeb_state *state, PyObject *keys, PyObject *handler,
                     const aeb_subscription_options *options)
{
    int flags;
    if (check_handler(handler, &flags) < 0) {
        return NULL;
    }
    bool is_coroutine_function = (flags & (CO_COROUTINE | CO_ITERABLE_COROUTINE)) != 0;
    if (options->offload && is_coroutine_function) {
        PyErr_SetString(PyExc_TypeError,
                        "offload is for sync handlers, and this is a coroutine function");
        return NULL;
    }
    aeb_subscription *self = aeb_type_alloc(state->subscription_type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->keys = Py_NewRef(keys);
    self->handler = Py_NewRef(handler);
    self->priority = options->priority;
    self->timeout = options->timeout;
    self->once = options->once;
    self->envelope = options->envelope;
    self->offload = options->offload;
    self->where = Py_XNewRef(options->where);
    self->weak = options->weak;
    self->guard = options->guard;
    self->is_async = is_coroutine_function || options->offload;
    self->listener = options->listener;
    self->careful = options->where != NULL || options->weak || options->guard || options->listener;
    self->needs_delivery =
        options->offload || options->timeout > 0.0 || options->weak || options->guard;
    if (options->weak && aeb_weak_hold(self, handler) < 0) {
        Py_CLEAR(self);
    }
    return self;
}

static int
subscription_traverse(aeb_subscription *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->handler);
    Py_VISIT(self->where);
    Py_VISIT(self->weak_function);
    Py_VISIT(self->watch);
    Py_VISIT(self->watch_function);
    Py_VISIT(self->keys);   /* with classes; a cycle through one is broken there */
    Py_VISIT(self->listed); /* may be the same object, held twice */
    return 0;
}

static int
subscription_clear(aeb_subscription *self)
{
    PyObject *handler = self->handler;
    self->handler = Py_NewRef(Py_None);
    Py_XDECREF(handler);
    Py_CLEAR(self->where);
    aeb_weak_unwatch(self);
    return 0;
}

static void
subscription_dealloc(aeb_subscription *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    aeb_weak_unwatch(self);
    Py_CLEAR(self->weak_function);
    Py_CLEAR(self->weak_name);
    Py_CLEAR(self->where);
    Py_CLEAR(self->handler);
    Py_CLEAR(self->task_event);
    Py_CLEAR(self->task_name);
    Py_CLEAR(self->listed);
    Py_CLEAR(self->keys);
#ifdef Py_GIL_DISABLED
    Py_CLEAR(self->bus_reference);
#endif
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyObject *
key_text(PyObject *key)
{
    return PyType_Check(key) ? aeb_class_name((PyTypeObject *)key) : PyObject_Repr(key);
}

/* The keys as they are shown to people: 'a', or ('a', SomeClass). */
static PyObject *
keys_text(PyObject *keys)
{
    Py_ssize_t n = PyTuple_GET_SIZE(keys);
    PyObject *text = key_text(PyTuple_GET_ITEM(keys, 0));
    for (Py_ssize_t i = 1; text != NULL && i < n; i++) {
        PyObject *next = key_text(PyTuple_GET_ITEM(keys, i));
        Py_SETREF(text, next == NULL ? NULL : PyUnicode_FromFormat("%U, %U", text, next));
        Py_XDECREF(next);
    }
    if (text != NULL && n > 1) {
        Py_SETREF(text, PyUnicode_FromFormat("(%U)", text));
    }
    return text;
}

static PyObject *
subscription_repr(aeb_subscription *self)
{
    PyObject *name = aeb_subscription_handler_name(self);
    PyObject *keys = name == NULL ? NULL : keys_text(self->keys), *result = NULL;
    if (keys != NULL) {
        result = PyUnicode_FromFormat("<Subscription %lld: %U -> %U%s>", (long long)self->id, keys,
                                      name, aeb_subscription_is_active(self) ? "" : ", inactive");
    }
    Py_XDECREF(keys);
    Py_XDECREF(name);
    return result;
}

static PyObject *
subscription_get_key(aeb_subscription *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(PyTuple_GET_ITEM(self->keys, 0));
}

static PyObject *
subscription_get_handler(aeb_subscription *self, void *Py_UNUSED(closure))
{
    PyObject *handler = aeb_subscription_handler(self);
    return handler != NULL || PyErr_Occurred() ? handler : Py_NewRef(Py_None);
}

static PyObject *
subscription_get_isolate(aeb_subscription *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(!self->guard);
}

static PyObject *
subscription_get_active(aeb_subscription *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(aeb_subscription_is_active(self));
}

static PyObject *
subscription_get_timeout(aeb_subscription *self, void *Py_UNUSED(closure))
{
    return self->timeout == 0.0 ? Py_NewRef(Py_None) : PyFloat_FromDouble(self->timeout);
}

static PyGetSetDef subscription_getset[] = {
    {"key", (getter)subscription_get_key, NULL, PyDoc_STR("The first of keys."), NULL},
    {"handler", (getter)subscription_get_handler, NULL,
     PyDoc_STR("The callable, as it was given; None when it was held weakly and is gone."), NULL},
    {"isolate", (getter)subscription_get_isolate, NULL,
     PyDoc_STR("Whether the emitter is kept from what the handler raises."), NULL},
    {"active", (getter)subscription_get_active, NULL,
     PyDoc_STR("Whether the handler is still subscribed."), NULL},
    {"timeout", (getter)subscription_get_timeout, NULL,
     PyDoc_STR("Seconds that an async delivery may take, or None."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef subscription_members[] = {
    {"keys", T_OBJECT_EX, offsetof(aeb_subscription, keys), READONLY,
     PyDoc_STR("What it is subscribed to, a tuple of str and classes.")},
    {"id", T_LONGLONG, offsetof(aeb_subscription, id), READONLY,
     PyDoc_STR("Its number on its bus, from 1, never reused.")},
    {"priority", T_LONGLONG, offsetof(aeb_subscription, priority), READONLY,
     PyDoc_STR("Lower runs first.")},
    {"calls", T_ULONGLONG, offsetof(aeb_subscription, calls), READONLY,
     PyDoc_STR("How often the handler was called, failures included.")},
    {"failures", T_ULONGLONG, offsetof(aeb_subscription, failures), READONLY,
     PyDoc_STR("How often it raised an Exception.")},
    {"once", T_BOOL, offsetof(aeb_subscription, once), READONLY,
     PyDoc_STR("Whether its first delivery ends it.")},
    {"weak", T_BOOL, offsetof(aeb_subscription, weak), READONLY,
     PyDoc_STR("Whether it ends when nobody else keeps the handler.")},
    {"envelope", T_BOOL, offsetof(aeb_subscription, envelope), READONLY,
     PyDoc_STR("Whether the handler receives an Event.")},
    {"offload", T_BOOL, offsetof(aeb_subscription, offload), READONLY,
     PyDoc_STR("Whether the handler runs in a worker thread.")},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(aeb_subscription, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(
    subscription_doc,
    "One handler subscribed to a bus: its keys, options and counters.\n\n"
    "Made by EventBus.subscribe(). Cancel it with cancel(), or use it as a context manager,\n"
    "which cancels it at exit.");

int
aeb_subscription_init_type(PyObject *module, aeb_state *state, PyMethodDef *methods)
{
    PyType_Slot slots[] = {
        {Py_tp_doc, (void *)subscription_doc},
        {Py_tp_dealloc, subscription_dealloc},
        {Py_tp_traverse, subscription_traverse},
        {Py_tp_clear, subscription_clear},
        {Py_tp_repr, subscription_repr},
        {Py_tp_methods, methods},
        {Py_tp_getset, subscription_getset},
        {Py_tp_members, subscription_members},
        {0, NULL},
    };
    PyType_Spec spec = {
        .name = "agent_event_bus.Subscription",
        .basicsize = sizeof(aeb_subscription),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
                 Py_TPFLAGS_DISALLOW_INSTANTIATION,
        .slots = slots,
    };
    return aeb_state_add_type(module, &spec, &state->subscription_type, true);
}
