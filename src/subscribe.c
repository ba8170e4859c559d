/* Subscribing and unsubscribing: the arguments of on, once, subscribe, off and clear. */
#include "subscribe.h"

#include "keys.h"
#include "options.h"
#include "registry.h"
#include "schema.h"
#include "subscription.h"
#include "weak.h"
#include "where.h"

/* What bus.on(key) returns: called with a handler, it subscribes it and returns it. */
typedef struct {
    PyObject_HEAD
    aeb_bus *bus;
    PyObject *keys;
    aeb_subscription_options options;
} registrar;

/* Keyword arguments of a METH_FASTCALL | METH_KEYWORDS method; `function` names it in errors.  After
 * a success `where` is a new reference. */
static int
parse_options(const char *function, PyObject *const *values, PyObject *kwnames,
              aeb_subscription_options *options)
{
    Py_ssize_t n = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        int status;
        if (PyUnicode_CompareWithASCIIString(name, "priority") == 0) {
            status = aeb_parse_priority(values[i], &options->priority);
        }
        else if (PyUnicode_CompareWithASCIIString(name, "envelope") == 0) {
            status = aeb_parse_flag(values[i], "envelope", &options->envelope);
        }
        else if (PyUnicode_CompareWithASCIIString(name, "timeout") == 0) {
            status = aeb_parse_seconds(values[i], "timeout", &options->timeout);
            options->has_timeout = values[i] != Py_None;
        }
        else if (PyUnicode_CompareWithASCIIString(name, "offload") == 0) {
            status = aeb_parse_flag(values[i], "offload", &options->offload);
        }
        else if (PyUnicode_CompareWithASCIIString(name, "weak") == 0) {
            status = aeb_parse_flag(values[i], "weak", &options->weak);
        }
        else if (PyUnicode_CompareWithASCIIString(name, "isolate") == 0) {
            bool isolate;
            status = aeb_parse_flag(values[i], "isolate", &isolate);
            options->guard = status == 0 && !isolate;
        }
        else if (PyUnicode_CompareWithASCIIString(name, "where") == 0) {
            options->where = values[i] == Py_None ? NULL : values[i];
            status = 0;
        }
        else if (!options->once && PyUnicode_CompareWithASCIIString(name, "once") == 0) {
            status = aeb_parse_flag(values[i], "once", &options->once);
        }
        else {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", function,
                         name);
            status = -1;
        }
        if (status < 0) {
            return -1;
        }
    }
    /* Last, so that it need not be released after another one's error. */
    if (options->where != NULL) {
        options->where = aeb_where_compile(options->where);
        return options->where == NULL ? -1 : 0;
    }
    return 0;
}

static int
check_open(aeb_bus *self)
{
    if (AEB_LOAD(self->closed)) {
        PyErr_SetString(PyExc_RuntimeError, "the bus is closed");
        return -1;
    }
    return 0;
}

/* One key as a tuple of one. */
static PyObject *
keys_of_key(PyObject *key)
{
    PyObject *exact = aeb_key_normalize(key);
    if (exact == NULL) {
        return NULL;
    }
    PyObject *keys = PyTuple_Pack(1, exact);
    Py_DECREF(exact);
    return keys;
}

/* A key, or a list or tuple of them, as a tuple without repetitions. */
static PyObject *
keys_of(PyObject *key_or_keys)
{
    if (!PyList_Check(key_or_keys) && !PyTuple_Check(key_or_keys)) {
        return keys_of_key(key_or_keys);
    }
    PyObject *given = PySequence_Tuple(key_or_keys);
    PyObject *by_listed = PyDict_New(), *keys = NULL, *result = NULL;
    if (given == NULL || by_listed == NULL) {
        goto done;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(given); i++) {
        PyObject *exact = aeb_key_normalize(PyTuple_GET_ITEM(given, i));
        if (exact == NULL) {
            goto done;
        }
        PyObject *listed = aeb_key_listed(exact);
        bool added = listed != NULL && PyDict_SetDefault(by_listed, listed, exact) != NULL;
        Py_XDECREF(listed);
        Py_DECREF(exact);
        if (!added) {
            goto done;
        }
    }
    if (PyDict_GET_SIZE(by_listed) == 0) {
        PyErr_SetString(PyExc_ValueError, "no key to subscribe to: the sequence of keys is empty");
        goto done;
    }
    keys = PyDict_Values(by_listed);
    result = keys == NULL ? NULL : PyList_AsTuple(keys);

done:
    Py_XDECREF(given);
    Py_XDECREF(by_listed);
    Py_XDECREF(keys);
    return result;
}

/* TypeError for what an async_only bus does not take: an offloaded handler counts as async, for it
 * never holds up the loop. */
static int
check_async(aeb_subscription *sub)
{
    if (sub->is_async) {
        return 0;
    }
    PyObject *name = aeb_subscription_handler_name(sub);
    if (name != NULL) {
        PyErr_Format(PyExc_TypeError,
                     "handler %U is sync, and the bus is async_only: make it a coroutine function, "
                     "or subscribe it with offload=True",
                     name);
        Py_DECREF(name);
    }
    return -1;
}

static aeb_subscription *
add_subscription(aeb_bus *self, PyObject *keys, PyObject *handler,
                 const aeb_subscription_options *options)
{
    aeb_subscription_options resolved = *options;
    if (!resolved.has_timeout) {
        resolved.timeout = self->handler_timeout;
    }
    aeb_subscription *sub = aeb_subscription_new(self->state, keys, handler, &resolved);
    if (sub != NULL &&
        ((self->async_only && !sub->listener && check_async(sub) < 0) ||
         (sub->weak && aeb_weak_watch(sub) < 0) || aeb_registry_add(self, sub) < 0)) {
        aeb_weak_unwatch(sub);
        Py_CLEAR(sub);
    }
    /* Last, for looking at the handler has run code of its own, which may have closed the bus. */
    if (sub != NULL && check_open(self) < 0) {
        (void)aeb_registry_end(sub);
        Py_CLEAR(sub);
    }
    return sub;
}

/* Subscribes and returns the handler, as decorators do. */
static PyObject *
subscribe_and_return(aeb_bus *self, PyObject *keys, PyObject *handler,
                     const aeb_subscription_options *options)
{
    aeb_subscription *sub = add_subscription(self, keys, handler, options);
    if (sub == NULL) {
        return NULL;
    }
    Py_DECREF(sub);
    return Py_NewRef(handler);
}

PyObject *
aeb_on_or_once(aeb_bus *self, const char *function, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames, bool once)
{
    aeb_subscription_options options = {.once = once};
    if (nargs < 1 || nargs > 2) {
        PyErr_Format(PyExc_TypeError,
                     "%s() takes a key and at most one handler (%zd arguments given)", function,
                     nargs);
        return NULL;
    }
    if (parse_options(function, args + nargs, kwnames, &options) < 0) {
        return NULL;
    }
    PyObject *result = NULL, *keys = check_open(self) < 0 ? NULL : keys_of_key(args[0]);
    if (keys != NULL && aeb_schema_admit_keys(self, keys) < 0) {
        Py_CLEAR(keys);
    }
    if (keys != NULL && nargs == 2 && args[1] != Py_None) {
        result = subscribe_and_return(self, keys, args[1], &options);
    }
    else if (keys != NULL) {
        registrar *decorator = aeb_type_alloc(self->state->registrar_type, 0);
        if (decorator != NULL) {
            decorator->bus = (aeb_bus *)Py_NewRef((PyObject *)self);
            decorator->keys = Py_NewRef(keys);
            decorator->options = options;
            Py_XINCREF(options.where);
        }
        result = (PyObject *)decorator;
    }
    Py_XDECREF(keys);
    Py_XDECREF(options.where);
    return result;
}

PyObject *
aeb_subscribe(aeb_bus *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
              bool listener)
{
    aeb_subscription_options options = {.listener = listener};
    if (nargs != 2) {
        PyErr_Format(PyExc_TypeError, "subscribe() takes a key and a handler (%zd arguments given)",
                     nargs);
        return NULL;
    }
    if (parse_options("subscribe", args + nargs, kwnames, &options) < 0) {
        return NULL;
    }
    aeb_subscription *sub = NULL;
    PyObject *keys = check_open(self) < 0 ? NULL : keys_of(args[0]);
    if (keys != NULL && aeb_schema_admit_keys(self, keys) == 0) {
        sub = add_subscription(self, keys, args[1], &options);
    }
    Py_XDECREF(keys);
    Py_XDECREF(options.where);
    return (PyObject *)sub;
}

PyObject *
aeb_unsubscribe(aeb_bus *self, PyObject *key, PyObject *handler)
{
    PyObject *exact = NULL;
    if (key != NULL && (exact = aeb_key_normalize(key)) == NULL) {
        return NULL;
    }
    PyObject *found = aeb_registry_find(self, exact, handler);
    Py_XDECREF(exact);
    if (found == NULL) {
        return NULL;
    }
    /* From the last to the first: a list gives up its last item at no cost. */
    Py_ssize_t count = 0;
    for (Py_ssize_t i = PyList_GET_SIZE(found) - 1; i >= 0; i--) {
        count += aeb_registry_cancel((aeb_subscription *)PyList_GET_ITEM(found, i));
    }
    Py_DECREF(found);
    return PyLong_FromSsize_t(count);
}

/* ---- the decorator --------------------------------------------------------------------------- */

static PyObject *
registrar_call(registrar *self, PyObject *args, PyObject *kwargs)
{
    PyObject *handler;
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0) {
        PyErr_SetString(PyExc_TypeError, "a subscribing decorator takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "O:decorator", &handler)) {
        return NULL;
    }
    return subscribe_and_return(self->bus, self->keys, handler, &self->options);
}

static int
registrar_traverse(registrar *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->bus);
    Py_VISIT(self->options.where);
    Py_VISIT(self->keys);
    return 0;
}

static void
registrar_dealloc(registrar *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_CLEAR(self->bus);
    Py_CLEAR(self->keys);
    Py_CLEAR(self->options.where);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

PyDoc_STRVAR(registrar_doc, "Subscribes the handler it is called with, and returns it.");

/* No tp_clear: it is immutable, and every cycle through it has something else that can be cleared. */
static PyType_Slot registrar_slots[] = {
    {Py_tp_doc, (void *)registrar_doc},
    {Py_tp_dealloc, registrar_dealloc},
    {Py_tp_traverse, registrar_traverse},
    {Py_tp_call, registrar_call},
    {0, NULL},
};

static PyType_Spec registrar_spec = {
    .name = "agent_event_bus._core.Registrar",
    .basicsize = sizeof(registrar),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = registrar_slots,
};

int
aeb_subscribe_init_type(PyObject *module, aeb_state *state)
{
    return aeb_state_add_type(module, &registrar_spec, &state->registrar_type, false);
}
