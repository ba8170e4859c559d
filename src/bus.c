/* EventBus: its methods, GC and type.  What they do is delegated. */
#include "bus.h"

#include "bus_init.h"
#include "bus_support.h"
#include "collect.h"
#include "emission.h"
#include "emitter.h"
#include "history.h"
#include "options.h"
#include "permit.h"
#include "publish.h"
#include "registry.h"
#include "report.h"
#include "schedule.h"
#include "schema.h"
#include "stats.h"
#include "subscribe.h"
#include "subscription.h"
#include "timing.h"

/* ---- subscribing ----------------------------------------------------------------------------- */

PyDoc_STRVAR(
    bus_on_doc,
    "on($self, key, handler=None, /, *, priority=0, once=False, weak=False, where=None,\n"
    "   envelope=False, isolate=True, timeout=None, offload=False)\n--\n\n"
    "Subscribe a handler to an event name, to a pattern of names, to every event with \"*\", or\n"
    "to the published objects of a class.\n\n"
    "Return the handler unchanged, or a decorator when no handler is given. The handler is\n"
    "called with the payload, under a pattern or \"*\" with (event_name, payload), and with an\n"
    "Event when envelope is true. Lower priority runs first, equal ones in order of\n"
    "registration; once ends the subscription at its first delivery; weak ends it when nobody\n"
    "else holds the handler; where, a mapping of fields to values or a callable that gets the\n"
    "payload, says which payloads are delivered; isolate=False makes the handler a guard, whose\n"
    "errors propagate to the emitter; timeout is how many seconds an async delivery may take, by\n"
    "default the handler_timeout of the bus; offload runs a sync handler in a worker thread where\n"
    "there is an event loop to wait for it.\n\n"
    "Raises ValueError or TypeError for a bad key, TypeError for a handler that is not\n"
    "callable, is a generator function, is a coroutine function to be offloaded, or is sync on\n"
    "an async_only bus, UnknownEventError for a name that a strict bus does not know, and\n"
    "RuntimeError when the bus is closed.");

static PyObject *
bus_on(aeb_bus *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return aeb_on_or_once(self, "on", args, nargs, kwnames, false);
}

PyDoc_STRVAR(bus_once_doc,
             "once($self, key, handler=None, /, *, priority=0, weak=False, where=None,\n"
             "     envelope=False, isolate=True, timeout=None, offload=False)\n--\n\n"
             "Subscribe a handler to its next event only: on() with once=True.");

static PyObject *
bus_once(aeb_bus *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return aeb_on_or_once(self, "once", args, nargs, kwnames, true);
}

PyDoc_STRVAR(
    bus_subscribe_doc,
    "subscribe($self, key_or_keys, handler, /, *, priority=0, once=False, weak=False, where=None,\n"
    "          envelope=False, isolate=True, timeout=None, offload=False)\n--\n\n"
    "Subscribe a handler to a key or to each of a list of keys; return the Subscription.\n\n"
    "An event that matches several of its keys is delivered once. Raises as on() does, and\n"
    "ValueError for an empty list.");

static PyObject *
bus_subscribe(aeb_bus *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return aeb_subscribe(self, args, nargs, kwnames, false);
}

/* For what the bus itself subscribes, wait_for() say: see _listener.py. */
static PyObject *
bus_subscribe_internal(aeb_bus *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return aeb_subscribe(self, args, nargs, kwnames, true);
}

PyDoc_STRVAR(
    bus_off_doc,
    "off($self, /, key=None, handler=None)\n--\n\n"
    "End the subscriptions of a handler, of a key, or of a handler to a key; return how many.\n\n"
    "A subscription with several keys ends whole. Handlers are compared by identity, bound\n"
    "methods by their object and function. Raises TypeError when both are None and for a handler\n"
    "that is not callable, ValueError or TypeError for a bad key.");

static PyObject *
bus_off(aeb_bus *self, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"key", "handler", NULL};
    PyObject *key = Py_None, *handler = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OO:off", keywords, &key, &handler)) {
        return NULL;
    }
    if (key == Py_None && handler == Py_None) {
        PyErr_SetString(PyExc_TypeError, "off() needs a key, a handler or both");
        return NULL;
    }
    if (handler != Py_None && !PyCallable_Check(handler)) {
        PyErr_Format(PyExc_TypeError, "handler must be callable, not %.200s",
                     Py_TYPE(handler)->tp_name);
        return NULL;
    }
    return aeb_unsubscribe(self, key == Py_None ? NULL : key, handler == Py_None ? NULL : handler);
}

PyDoc_STRVAR(bus_clear_doc,
             "clear($self, /, key=None)\n--\n\n"
             "End every subscription, or every one that has this key; return how many. Raises\n"
             "ValueError or TypeError for a bad key.");

static PyObject *
bus_clear(aeb_bus *self, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"key", NULL};
    PyObject *key = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:clear", keywords, &key)) {
        return NULL;
    }
    return aeb_unsubscribe(self, key == Py_None ? NULL : key, NULL);
}

PyDoc_STRVAR(bus_handlers_doc,
             "handlers($self, /, name)\n--\n\n"
             "Return the subscriptions that an event of this name reaches, in the order they run:\n"
             "sync handlers, then async ones. Raises ValueError or TypeError for what is no event\n"
             "name, and UnknownEventError for one that a strict bus does not know.");

static PyObject *
bus_handlers(aeb_bus *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *name;
    if (aeb_parse_event("handlers", args, nargs, kwnames, &name, NULL) < 0) {
        return NULL;
    }
    aeb_plan *plan = aeb_registry_plan(self, name);
    if (plan == NULL) {
        return NULL;
    }
    PyObject *result = NULL, *active = PyList_New(0);
    for (Py_ssize_t i = 0; active != NULL && i < plan->n_entries; i++) {
        aeb_subscription *sub = plan->entries[i].sub;
        if (aeb_subscription_is_active(sub) && PyList_Append(active, (PyObject *)sub) < 0) {
            Py_CLEAR(active);
        }
    }
    if (active != NULL) {
        result = PyList_AsTuple(active);
        Py_DECREF(active);
    }
    Py_DECREF(plan);
    return result;
}

PyDoc_STRVAR(
    bus_has_handlers_doc,
    "has_handlers($self, /, name)\n--\n\n"
    "Whether an event of this name reaches any handler: a guard for payloads that are costly\n"
    "to build. Raises as handlers() does.");

static PyObject *
bus_has_handlers(aeb_bus *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *name;
    if (aeb_parse_event("has_handlers", args, nargs, kwnames, &name, NULL) < 0) {
        return NULL;
    }
    aeb_plan *plan = aeb_registry_plan(self, name);
    if (plan == NULL) {
        return NULL;
    }
    bool result = plan->n_entries > 0;
    Py_DECREF(plan);
    return PyBool_FromLong(result);
}

/* ---- emitting -------------------------------------------------------------------------------- */

/* TypeError, with NULL, for another number of arguments than a name and perhaps a payload. */
static PyObject *
refuse_arguments(const char *function, Py_ssize_t nargs)
{
    PyErr_Format(PyExc_TypeError, "%s() takes a name and at most one payload (%zd arguments given)",
                 function, nargs);
    return NULL;
}

PyDoc_STRVAR(
    bus_emit_doc,
    "emit($self, name, payload=None, /)\n--\n\n"
    "Deliver an event; return how many handlers were called or started, failing ones included.\n\n"
    "Sync handlers run inline, in order. Async ones become tasks of the loop running in this\n"
    "thread, else of the bound loop, else run to completion here. No Exception of a handler\n"
    "leaves this call, unless it is a guard (isolate=False): each is logged. Raises ValueError or\n"
    "TypeError for a bad name, EventSchemaError for a payload that does not fit the schema of the\n"
    "event, UnknownEventError for a name that a strict bus does not know, and RuntimeError on an\n"
    "async_only bus.");

static PyObject *
bus_emit(aeb_bus *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (AEB_UNLIKELY(nargs < 1 || nargs > 2)) {
        return refuse_arguments("emit", nargs);
    }
    if (AEB_UNLIKELY(AEB_LOAD(self->emit_barred))) {
        return aeb_emit_barred(self, args[0]);
    }
    aeb_plan *plan = aeb_registry_plan(self, args[0]);
    if (AEB_UNLIKELY(plan == NULL)) {
        return NULL;
    }
    PyObject *count = aeb_emit(self, plan, nargs > 1 ? args[1] : Py_None, false);
    Py_DECREF(plan);
    return count;
}

PyDoc_STRVAR(
    bus_emit_async_doc,
    "emit_async($self, name, payload=None, /)\n--\n\n"
    "Return a coroutine object that delivers an event when it is awaited.\n\n"
    "It runs every sync handler inline, in order, then all async ones concurrently, each in a\n"
    "task and a context of its own, and returns how many handlers were called once all have\n"
    "settled. Cancelling it cancels and awaits the unfinished ones. When it is awaited, a bad\n"
    "name raises ValueError or TypeError, a payload that does not fit the schema of the event\n"
    "EventSchemaError, and a name that a strict bus does not know UnknownEventError.");

static PyObject *
bus_emit_async(aeb_bus *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs < 1 || nargs > 2) {
        return refuse_arguments("emit_async", nargs);
    }
    return aeb_emission_new(self, args[0], nargs > 1 ? args[1] : Py_None);
}

PyDoc_STRVAR(
    bus_collect_doc,
    "collect($self, /, name, payload=None)\n--\n\n"
    "Deliver an event here and now; return a list with the Outcome of every handler, in the order\n"
    "they ran: sync handlers, then async ones.\n\n"
    "Failures are in the outcomes, and not logged; the one of a guard (isolate=False) is too, and "
    "no\n"
    "handler is called after it. Without a running loop async handlers run to completion, also "
    "when\n"
    "the bus is bound to one. Raises RuntimeError when an async or offloaded handler matches "
    "inside\n"
    "a running loop and on an async_only bus, and for a bad name or payload what emit() raises.");

static PyObject *
bus_collect(aeb_bus *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *name, *payload;
    if (aeb_parse_event("collect", args, nargs, kwnames, &name, &payload) < 0) {
        return NULL;
    }
    return aeb_collect(self, name, payload);
}

PyDoc_STRVAR(
    bus_collect_async_doc,
    "collect_async($self, /, name, payload=None)\n--\n\n"
    "Return a coroutine object that delivers an event when it is awaited, as emit_async() does,\n"
    "and returns a list with the Outcome of every handler, as collect() does.");

static PyObject *
bus_collect_async(aeb_bus *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *name, *payload;
    if (aeb_parse_event("collect_async", args, nargs, kwnames, &name, &payload) < 0) {
        return NULL;
    }
    return aeb_emission_new_collecting(self, name, payload);
}

PyDoc_STRVAR(bus_emitter_doc,
             "emitter($self, /, name)\n--\n\n"
             "Return an Emitter of one event name: emitter(payload) does what emit(name, payload)\n"
             "does, without looking the name up again.\n\n"
             "Raises ValueError or TypeError for a bad name, and UnknownEventError for one that a\n"
             "strict bus does not know.");

static PyObject *
bus_emitter(aeb_bus *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *name;
    if (aeb_parse_event("emitter", args, nargs, kwnames, &name, NULL) < 0) {
        return NULL;
    }
    return aeb_emitter_new(self, name);
}

PyDoc_STRVAR(
    bus_bind_loop_doc,
    "bind_loop($self, loop, /)\n--\n\n"
    "Set the event loop that runs async handlers of emit() calls made in threads without a\n"
    "running one; None unbinds. Raises TypeError for what is no event loop.");

/* ---- the object ------------------------------------------------------------------------------ */

static PyObject *
bus_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    aeb_state *state = aeb_state_of_type(type);
    if (state == NULL) {
        return NULL;
    }
    aeb_bus *self = (aeb_bus *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->state = state;
    self->module = Py_NewRef(aeb_module_of_type(type, &aeb_module_def));
    self->name = Py_NewRef(Py_None);
    if (aeb_registry_init(self) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static int
bus_traverse(aeb_bus *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->module);
    int result = aeb_registry_traverse(self, visit, arg);
    result = result != 0 ? result : aeb_report_traverse(self, visit, arg);
    result = result != 0 ? result : aeb_schema_traverse(self, visit, arg);
    result = result != 0 ? result : aeb_permit_traverse(self, visit, arg);
    result = result != 0 ? result : aeb_history_traverse(self, visit, arg);
    result = result != 0 ? result : aeb_timing_traverse(self, visit, arg);
    return result != 0 ? result : aeb_schedule_traverse(self, visit, arg);
}

static int
bus_tp_clear(aeb_bus *self)
{
    aeb_registry_clear(self);
    aeb_schema_clear(self);
    aeb_report_clear(self);
    aeb_permit_clear(self);
    aeb_schedule_clear(self);
    aeb_history_clear(self);
    return 0;
}

static void
bus_dealloc(aeb_bus *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    (void)bus_tp_clear(self);
    aeb_registry_free(self);
    aeb_timing_free(self);
    Py_CLEAR(self->name);
    PyObject *module = self->module;
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
    Py_XDECREF(module);
}

static Py_ssize_t
bus_length(aeb_bus *self)
{
    return AEB_LOAD(self->n_active);
}

static int
bus_bool(aeb_bus *Py_UNUSED(self))
{
    return 1;
}

static PyObject *
bus_repr(aeb_bus *self)
{
    const char *type_name = strrchr(Py_TYPE(self)->tp_name, '.');
    type_name = type_name == NULL ? Py_TYPE(self)->tp_name : type_name + 1;
    PyObject *name = aeb_bus_get(self, &self->name);
    PyObject *named =
        name == Py_None ? PyUnicode_FromString("") : PyUnicode_FromFormat(" %R", name);
    Py_DECREF(name);
    if (named == NULL) {
        return NULL;
    }
    Py_ssize_t n_active = bus_length(self);
    PyObject *result =
        PyUnicode_FromFormat("<%s%U: %zd subscription%s%s>", type_name, named, n_active,
                             n_active == 1 ? "" : "s", AEB_LOAD(self->closed) ? ", closed" : "");
    Py_DECREF(named);
    return result;
}

static PyObject *bus_own_methods(PyTypeObject *type, PyObject *ignored);

static PyMethodDef bus_methods[] = {
    {"on", AEB_METHOD(bus_on), METH_FASTCALL | METH_KEYWORDS, bus_on_doc},
    {"once", AEB_METHOD(bus_once), METH_FASTCALL | METH_KEYWORDS, bus_once_doc},
    {"subscribe", AEB_METHOD(bus_subscribe), METH_FASTCALL | METH_KEYWORDS, bus_subscribe_doc},
    {"off", AEB_METHOD(bus_off), METH_VARARGS | METH_KEYWORDS, bus_off_doc},
    {"clear", AEB_METHOD(bus_clear), METH_VARARGS | METH_KEYWORDS, bus_clear_doc},
    {"handlers", AEB_METHOD(bus_handlers), METH_FASTCALL | METH_KEYWORDS, bus_handlers_doc},
    {"has_handlers", AEB_METHOD(bus_has_handlers), METH_FASTCALL | METH_KEYWORDS,
     bus_has_handlers_doc},
    {"emit", AEB_METHOD(bus_emit), METH_FASTCALL, bus_emit_doc},
    {"emit_async", AEB_METHOD(bus_emit_async), METH_FASTCALL, bus_emit_async_doc},
    {"publish", AEB_METHOD(aeb_publish), METH_FASTCALL, aeb_publish_doc},
    {"publish_async", AEB_METHOD(aeb_publish_async), METH_FASTCALL, aeb_publish_async_doc},
    {"collect", AEB_METHOD(bus_collect), METH_FASTCALL | METH_KEYWORDS, bus_collect_doc},
    {"collect_async", AEB_METHOD(bus_collect_async), METH_FASTCALL | METH_KEYWORDS,
     bus_collect_async_doc},
    {"emitter", AEB_METHOD(bus_emitter), METH_FASTCALL | METH_KEYWORDS, bus_emitter_doc},
    {"history", AEB_METHOD(aeb_history), METH_VARARGS | METH_KEYWORDS, aeb_history_doc},
    {"stats", AEB_METHOD(aeb_stats), METH_NOARGS, aeb_stats_doc},
    {"bind_loop", AEB_METHOD(aeb_bus_bind_loop), METH_O, bus_bind_loop_doc},
    {"_own_methods", AEB_METHOD(bus_own_methods), METH_NOARGS | METH_CLASS,
     PyDoc_STR("_own_methods($type, /)\n--\n\nMake calls of emit and its like direct.")},
    {"_define_event", AEB_METHOD(aeb_bus_define_event), METH_VARARGS,
     PyDoc_STR("_define_event(name, schema, checker)\n\nDeclare an event; see schema.h.")},
    {"_subscribe_internal", AEB_METHOD(bus_subscribe_internal), METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("_subscribe_internal($self, key_or_keys, handler, /, **options)\n--\n\n"
               "subscribe(), which an async_only bus refuses nothing.")},
    {"_pending", AEB_METHOD(aeb_bus_pending), METH_NOARGS,
     PyDoc_STR(
         "_pending($self, /)\n--\n\nThe deliveries that emit scheduled and that are not over.")},
    {"_own_delivery", AEB_METHOD(aeb_bus_own_delivery), METH_NOARGS,
     PyDoc_STR("_own_delivery($self, /)\n--\n\nThe pending delivery that the caller is part of.")},
    {"_when_idle", AEB_METHOD(aeb_bus_when_idle), METH_VARARGS,
     PyDoc_STR("_when_idle(callback, ignore_parked)\n\nCall it once, when nothing is pending.")},
    {"_forget_idle", AEB_METHOD(aeb_bus_forget_idle), METH_O,
     PyDoc_STR("_forget_idle($self, callback, /)\n--\n\nTake back a call of _when_idle.")},
    {"_give_up_permits", AEB_METHOD(aeb_bus_give_up_permits), METH_NOARGS,
     PyDoc_STR("_give_up_permits($self, /)\n--\n\nThe calling handler makes room for others.")},
    {"_park", AEB_METHOD(aeb_bus_park), METH_VARARGS,
     PyDoc_STR(
         "_park(delivery, parked)\n\nDo not count a delivery that waits for the bus itself.")},
    {"_close", AEB_METHOD(aeb_bus_close), METH_NOARGS,
     PyDoc_STR("_close($self, /)\n--\n\nDeliver nothing from now on.")},
    {"_subscriptions", AEB_METHOD(aeb_bus_subscriptions), METH_NOARGS,
     PyDoc_STR("_subscriptions($self, /)\n--\n\nThe active subscriptions.")},
    {NULL, NULL, 0, NULL},
};

/* Gives a subclass its own descriptors for the methods that are called most: the interpreter calls
 * a C method without detours only through a descriptor that belongs to the very type of the object
 * (see CALL_METHOD_DESCRIPTOR_FAST in CPython). */
static PyObject *
bus_own_methods(PyTypeObject *type, PyObject *Py_UNUSED(ignored))
{
    for (PyMethodDef *def = bus_methods; def->ml_name != NULL; def++) {
        if (def->ml_flags != METH_FASTCALL) {
            continue;
        }
        PyObject *descriptor = PyDescr_NewMethod(type, def);
        int status = descriptor == NULL
                         ? -1
                         : PyObject_SetAttrString((PyObject *)type, def->ml_name, descriptor);
        Py_XDECREF(descriptor);
        if (status < 0) {
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

static PyMemberDef bus_members[] = {
    {"name", T_OBJECT_EX, offsetof(aeb_bus, name), READONLY, PyDoc_STR("Its name, or None.")},
    {"closed", T_BOOL, offsetof(aeb_bus, closed), READONLY,
     PyDoc_STR("Whether aclose() has been called.")},
    {"_loop", T_OBJECT, offsetof(aeb_bus, loop), READONLY, PyDoc_STR("The bound loop, or None.")},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(aeb_bus, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef bus_getset[] = {
    {"on_error", (getter)aeb_bus_get_on_error, (setter)aeb_bus_set_on_error,
     PyDoc_STR("Called with event name, handler and exception after a failure was logged; or "
               "None."),
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(bus_doc, "EventBus(name=None, *, history=0, logger=None, on_error=None, loop=None, "
                      "max_pending=None, max_concurrency=None, handler_timeout=None, "
                      "slow_after=None, timing=False, strict=False, async_only=False)\n--\n\n"
                      "The native part of agent_event_bus.EventBus.");

static PyType_Slot bus_slots[] = {
    {Py_tp_doc, (void *)bus_doc},
    {Py_tp_new, bus_new},
    {Py_tp_init, aeb_bus_init},
    {Py_tp_dealloc, bus_dealloc},
    {Py_tp_traverse, bus_traverse},
    {Py_tp_clear, bus_tp_clear},
    {Py_tp_repr, bus_repr},
    {Py_sq_length, bus_length},
    {Py_nb_bool, bus_bool},
    {Py_tp_methods, bus_methods},
    {Py_tp_members, bus_members},
    {Py_tp_getset, bus_getset},
    {0, NULL},
};

static PyType_Spec bus_spec = {
    .name = "agent_event_bus._core.EventBus",
    .basicsize = sizeof(aeb_bus),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = bus_slots,
};

int
aeb_bus_init_types(PyObject *module, aeb_state *state)
{
    if (aeb_subscribe_init_type(module, state) < 0) {
        return -1;
    }
    return aeb_state_add_type(module, &bus_spec, &state->bus_type, true);
}
