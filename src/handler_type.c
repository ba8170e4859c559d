/* The type of deliveries, as Python sees it: the coroutine that a handler's task drives. */
#include "coroutine.h"
#include "handler_task.h"
#include "permit.h"
#include "starter.h"
#include "timeout.h"

/* ---- the Python type ------------------------------------------------------------------------- */

/* The answer of send() or throw(): a value, or StopIteration without one, as we return None. */
static PyObject *
send_result(PySendResult status, PyObject *result_steal)
{
    if (status == PYGEN_RETURN) {
        Py_CLEAR(result_steal);
        PyErr_SetNone(PyExc_StopIteration);
    }
    return result_steal;
}

static PyObject *
handler_send(aeb_handler_task *self, PyObject *value)
{
    PyObject *result;
    PySendResult status = aeb_handler_task_send(self, value, &result);
    return send_result(status, result);
}

static PyObject *
handler_next(aeb_handler_task *self)
{
    return handler_send(self, Py_None);
}

static PyObject *
handler_throw(aeb_handler_task *self, PyObject *args)
{
    PyObject *exc = aeb_thrown_exception(args), *result;
    if (exc == NULL) {
        return NULL;
    }
    PySendResult status = aeb_handler_task_throw(self, exc, &result);
    Py_DECREF(exc);
    return send_result(status, result);
}

static PyObject *
handler_close(aeb_handler_task *self, PyObject *Py_UNUSED(ignored))
{
    if (aeb_handler_task_close(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
handler_cancel(aeb_handler_task *self, PyObject *Py_UNUSED(ignored))
{
    bool requested;
    AEB_LOCK(self);
    requested = AEB_LOAD(self->cancel_requested);
    AEB_UNLOCK();
    if (!requested) { /* once is enough: it may be cleaning up */
        aeb_handler_task_cancel(self);
    }
    Py_RETURN_NONE;
}

/* The done-callback of tasks that are told of a failure. */
static PyObject *
handler_retrieve(aeb_handler_task *self, PyObject *task)
{
    PyObject *answer = PyObject_CallMethodNoArgs(task, self->state->str_exception);
    if (answer == NULL) { /* it was cancelled as well */
        PyErr_Clear();
    }
    Py_XDECREF(answer);
    Py_RETURN_NONE;
}

/* The callback that its loop runs, where it could not be started at once. */
static PyObject *
handler_start(aeb_handler_task *self, PyObject *Py_UNUSED(ignored))
{
    bool startable;
    PyObject *bus; /* none once it is over */
    AEB_LOCK(self);
    startable = AEB_LOAD(self->status) == AEB_HANDLER_NEW && self->task == NULL;
    bus = Py_XNewRef((PyObject *)self->bus);
    AEB_UNLOCK();
    if (bus != NULL) {
        aeb_permit_begins((aeb_bus *)bus, self);
        Py_DECREF(bus);
    }
    if (startable && aeb_starter_start_alone(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
handler_expire(aeb_handler_task *self, PyObject *Py_UNUSED(ignored))
{
    return aeb_timeout_expire(self);
}

static PyObject *
handler_get_name(aeb_handler_task *self, void *Py_UNUSED(closure))
{
    return self->sub == NULL ? PyUnicode_FromString("") : aeb_subscription_handler_name(self->sub);
}

static PyObject *
handler_get_running(aeb_handler_task *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(AEB_LOAD(self->status) == AEB_HANDLER_RUNNING);
}

static PyObject *
handler_get_suspended(aeb_handler_task *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(AEB_LOAD(self->status) == AEB_HANDLER_SUSPENDED);
}

/* cr_frame, cr_code and cr_await of the handler's own coroutine, for whoever inspects the task. */
static PyObject *
handler_get_inner(aeb_handler_task *self, void *attribute)
{
    PyObject *inner;
    AEB_LOCK(self);
    inner = Py_XNewRef(self->inner);
    AEB_UNLOCK();
    PyObject *value = inner != NULL && PyCoro_CheckExact(inner)
                          ? PyObject_GetAttrString(inner, (const char *)attribute)
                          : Py_NewRef(Py_None);
    Py_XDECREF(inner);
    return value;
}

static PyMethodDef handler_methods[] = {
    {"send", AEB_METHOD(handler_send), METH_O, PyDoc_STR("One step of the coroutine.")},
    {"throw", AEB_METHOD(handler_throw), METH_VARARGS, PyDoc_STR("One step, with an exception.")},
    {"close", AEB_METHOD(handler_close), METH_NOARGS, PyDoc_STR("End it here.")},
    {"cancel", AEB_METHOD(handler_cancel), METH_NOARGS,
     PyDoc_STR("Ask its task, in its loop's thread, to cancel.")},
    {"_retrieve", AEB_METHOD(handler_retrieve), METH_O, PyDoc_STR("Look at how a task has ended.")},
    {"_start", AEB_METHOD(handler_start), METH_NOARGS, PyDoc_STR("Take its first step.")},
    {"_expire", AEB_METHOD(handler_expire), METH_NOARGS, PyDoc_STR("Its time is over.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef handler_getset[] = {
    {"__name__", (getter)handler_get_name, NULL, NULL, NULL},
    {"__qualname__", (getter)handler_get_name, NULL, NULL, NULL},
    {"cr_running", (getter)handler_get_running, NULL, NULL, NULL},
    {"cr_suspended", (getter)handler_get_suspended, NULL, NULL, NULL},
    {"cr_frame", (getter)handler_get_inner, NULL, NULL, "cr_frame"},
    {"cr_code", (getter)handler_get_inner, NULL, NULL, "cr_code"},
    {"cr_await", (getter)handler_get_inner, NULL, NULL, "cr_await"},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef handler_members[] = {
    {"event_name", T_OBJECT, offsetof(aeb_handler_task, name), READONLY, NULL},
    {"loop", T_OBJECT, offsetof(aeb_handler_task, loop), READONLY, NULL},
    {"task", T_OBJECT, offsetof(aeb_handler_task, task), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(aeb_handler_task, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static int
handler_traverse(aeb_handler_task *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->bus);
    Py_VISIT(self->sub);
    Py_VISIT(self->payload);
    Py_VISIT(self->event);
    Py_VISIT(self->awaitable);
    Py_VISIT(self->inner);
    Py_VISIT(self->context);
    Py_VISIT(self->yielded);
    Py_VISIT(self->failure);
    Py_VISIT(self->outcome);
    Py_VISIT(self->loop);
    Py_VISIT(self->timer);
    Py_VISIT(self->task);
    Py_VISIT(self->parent);
    Py_VISIT(self->owner);
    return 0;
}

/* Breaks cycles.  In the state DONE no method looks at what is cleared here. */
static int
handler_clear(aeb_handler_task *self)
{
    self->status = AEB_HANDLER_DONE;
    self->settled = NULL;
    (void)AEB_ADD(self->state->n_live, -(Py_ssize_t)self->live);
    self->live = false;
    Py_CLEAR(self->owner);
    Py_CLEAR(self->failure);
    Py_CLEAR(self->outcome);
    Py_CLEAR(self->inner);
    Py_CLEAR(self->awaitable);
    Py_CLEAR(self->yielded);
    Py_CLEAR(self->context);
    Py_CLEAR(self->loop);
    Py_CLEAR(self->timer);
    Py_CLEAR(self->task);
    Py_CLEAR(self->parent);
    return 0;
}

/* A coroutine that was made and never started would warn: it is closed. */
static void
handler_finalize(PyObject *obj)
{
    aeb_handler_task *self = (aeb_handler_task *)obj;
    aeb_permit_release(self); /* its loop has gone, and nobody else will */
    if (AEB_LOAD(self->status) != AEB_HANDLER_NEW || self->awaitable == NULL) {
        return;
    }
    (void)aeb_handler_task_settle(self, NULL);
}

static void
handler_dealloc(aeb_handler_task *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (PyObject_CallFinalizerFromDealloc((PyObject *)self) < 0) {
        return;
    }
    PyObject_GC_UnTrack(self);
    AEB_TRASHCAN_BEGIN(self, handler_dealloc)
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    (void)handler_clear(self);
    Py_CLEAR(self->event);
    Py_CLEAR(self->payload);
    Py_CLEAR(self->name);
    Py_CLEAR(self->sub);
    Py_CLEAR(self->bus);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
    AEB_TRASHCAN_END
}

PyDoc_STRVAR(handler_doc, "The coroutine that one async delivery runs as.");

static PyType_Slot handler_slots[] = {
    {Py_tp_doc, (void *)handler_doc},    {Py_tp_dealloc, handler_dealloc},
    {Py_tp_traverse, handler_traverse},  {Py_tp_clear, handler_clear},
    {Py_tp_finalize, handler_finalize},  {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, handler_next},      {Py_am_await, PyObject_SelfIter},
#if PY_VERSION_HEX >= 0x030A0000
    {Py_am_send, aeb_handler_task_send},
#endif
    {Py_tp_methods, handler_methods},    {Py_tp_getset, handler_getset},
    {Py_tp_members, handler_members},    {0, NULL},
};

static PyType_Spec handler_spec = {
    .name = "agent_event_bus._core.HandlerTask",
    .basicsize = sizeof(aeb_handler_task),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = handler_slots,
};

int
aeb_handler_task_init_type(PyObject *module, aeb_state *state)
{
    return aeb_state_add_type(module, &handler_spec, &state->handler_task_type, true);
}
