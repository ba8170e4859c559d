/* The type of the tasks that lazy_task.c describes, as Python sees it: LazyTask, a subclass of the
 * running version's asyncio.Task.
 *
 * It overrides what a blank task would answer wrongly.  Its fields stand behind those of the base
 * class, which initialises and frees the object.
 */
#include "lazy_parts.h"

/* ---- attributes and methods ------------------------------------------------------------------ */

/* Whoever looks at a task, looks at what it runs. */
static PyObject *
lazy_getattro(PyObject *task, PyObject *name)
{
    aeb_task_fields *fields = aeb_task_fields_of(task);
    if (fields->image != NULL && !fields->touched) {
        bool idle =
            fields->delivery == NULL && (fields->starter == NULL || fields->starter->entry == NULL);
        fields->touched = idle || !PyUnicode_CheckExact(name) ||
                          PyUnicode_CompareWithASCIIString(name, "__dict__") == 0;
    }
    return aeb_lazy_ensure_delivery(task) < 0 ? NULL : PyObject_GenericGetAttr(task, name);
}

static int
lazy_setattro(PyObject *task, PyObject *name, PyObject *value)
{
    aeb_task_fields_of(task)->touched = true;
    return aeb_lazy_ensure_delivery(task) < 0 ? -1 : PyObject_GenericSetAttr(task, name, value);
}

static PyObject *
lazy_get_name(PyObject *task, PyObject *Py_UNUSED(ignored))
{
    if (aeb_task_fields_of(task)->delivery == NULL) {
        Py_RETURN_NONE;
    }
    return aeb_lazy_name(task);
}

static PyObject *
lazy_set_name(PyObject *task, PyObject *value)
{
    PyObject *name = PyObject_Str(value);
    if (name == NULL) {
        return NULL;
    }
    Py_XSETREF(aeb_task_fields_of(task)->name, name);
    Py_RETURN_NONE;
}

static PyObject *
lazy_get_loop(PyObject *task, PyObject *Py_UNUSED(ignored))
{
    aeb_handler_task *delivery = aeb_task_fields_of(task)->delivery;
    return Py_NewRef(delivery != NULL && delivery->loop != NULL ? delivery->loop : Py_None);
}

/* The handler's own coroutine; the delivery, a coroutine as well, where there is none: the handler
 * is over, or returned a future.  asyncio's repr() of a task before 3.11 insists on a coroutine. */
static PyObject *
lazy_get_coro(PyObject *task, PyObject *Py_UNUSED(ignored))
{
    aeb_handler_task *delivery = aeb_task_fields_of(task)->delivery;
    if (delivery == NULL) { /* it waits for reuse: repr() needs one all the same */
        PyObject *base = (PyObject *)aeb_lazy_task_class(task), *value = NULL;
        PyObject *descriptor = PyObject_GetAttrString(base, "_coro");
        if (descriptor != NULL) {
            value = Py_TYPE(descriptor)->tp_descr_get(descriptor, task, base);
            Py_DECREF(descriptor);
        }
        return value;
    }
    bool has_coroutine = delivery->inner != NULL && PyCoro_CheckExact(delivery->inner);
    return Py_NewRef(has_coroutine ? delivery->inner : (PyObject *)delivery);
}

static PyObject *
lazy_loop_attribute(PyObject *task, void *Py_UNUSED(closure))
{
    return lazy_get_loop(task, NULL);
}

static PyObject *
lazy_coro_attribute(PyObject *task, void *Py_UNUSED(closure))
{
    return lazy_get_coro(task, NULL);
}

static PyObject *
lazy_delivery_attribute(PyObject *task, void *Py_UNUSED(closure))
{
    PyObject *delivery = (PyObject *)aeb_task_fields_of(task)->delivery;
    return Py_NewRef(delivery != NULL ? delivery : Py_None);
}

#if PY_VERSION_HEX >= 0x030C0000
static PyObject *
base_method(PyObject *task, const char *name)
{
    PyObject *base = (PyObject *)aeb_lazy_task_class(task);
    PyObject *method = PyObject_GetAttrString(base, name);
    PyObject *answer = method == NULL ? NULL : PyObject_CallOneArg(method, task);
    Py_XDECREF(method);
    return answer;
}

static PyObject *
lazy_get_context(PyObject *task, PyObject *Py_UNUSED(ignored))
{
    PyObject *context = aeb_task_fields_of(task)->context;
    return context != NULL ? Py_NewRef(context) : base_method(task, "get_context");
}
#endif

static PyMethodDef lazy_methods[] = {
    {"get_name", lazy_get_name, METH_NOARGS,
     PyDoc_STR("The name of the task: the event's and the handler's.")},
    {"set_name", lazy_set_name, METH_O, PyDoc_STR("Give the task another name.")},
    {"get_loop", lazy_get_loop, METH_NOARGS, PyDoc_STR("The event loop of the task.")},
    {"get_coro", lazy_get_coro, METH_NOARGS, PyDoc_STR("The coroutine of the handler.")},
#if PY_VERSION_HEX >= 0x030C0000
    {"get_context", lazy_get_context, METH_NOARGS,
     PyDoc_STR("The context that the handler runs in.")},
#endif
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef lazy_getset[] = {
    {"_loop", lazy_loop_attribute, NULL, NULL, NULL},
    {"_coro", lazy_coro_attribute, NULL, NULL, NULL},
    {"_delivery", lazy_delivery_attribute, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

/* ---- garbage collection ---------------------------------------------------------------------- */

static int
lazy_traverse(PyObject *task, visitproc visit, void *arg)
{
    aeb_task_fields *fields = aeb_task_fields_of(task);
#if PY_VERSION_HEX < 0x030C0000
    Py_VISIT(Py_TYPE(task)); /* from 3.12 on the base class is a heap type and visits it */
#endif
    Py_VISIT(fields->delivery);
    Py_VISIT(fields->context);
    Py_VISIT(fields->name);
    return aeb_lazy_task_class(task)->tp_traverse(task, visit, arg);
}

static void
clear_fields(PyObject *task)
{
    aeb_task_fields *fields = aeb_task_fields_of(task);
    Py_CLEAR(fields->delivery);
    Py_CLEAR(fields->context);
    Py_CLEAR(fields->name);
}

static int
lazy_clear(PyObject *task)
{
    clear_fields(task);
    return aeb_lazy_task_class(task)->tp_clear(task);
}

/* Runs before every deallocation; the base class, which then frees the object, knows nothing of
 * our fields. */
static void
lazy_finalize(PyObject *task)
{
    aeb_handler_task *delivery = aeb_task_fields_of(task)->delivery;
    if (delivery != NULL && delivery->failed) {
        /* The handler's failure has been reported: nobody has to retrieve it from the task. */
        PyObject *exc = aeb_take_exception();
        if (PyObject_GenericSetAttr(task, delivery->state->str_log_traceback, Py_False) < 0) {
            PyErr_Clear();
        }
        aeb_restore_exception_steal(exc);
    }
    if (aeb_lazy_task_class(task)->tp_finalize != NULL) {
        aeb_lazy_task_class(task)->tp_finalize(task);
    }
    clear_fields(task);
    aeb_lazy_forget_image(task);
}

/* ---- the type -------------------------------------------------------------------------------- */

PyDoc_STRVAR(lazy_doc, "The asyncio.Task that one async handler runs under.");

static PyType_Slot lazy_slots[] = {
    {Py_tp_doc, (void *)lazy_doc},
    {Py_tp_getattro, lazy_getattro},
    {Py_tp_setattro, lazy_setattro},
    {Py_tp_traverse, lazy_traverse},
    {Py_tp_clear, lazy_clear},
    {Py_tp_finalize, lazy_finalize},
    {Py_tp_methods, lazy_methods},
    {Py_tp_getset, lazy_getset},
    {0, NULL},
};

int
aeb_lazy_make_type(aeb_state *state, PyTypeObject *base)
{
    PyType_Spec spec = {
        .name = "agent_event_bus._core.LazyTask",
        .basicsize = (int)(base->tp_basicsize + (Py_ssize_t)sizeof(aeb_task_fields)),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
        .slots = lazy_slots,
    };
#if PY_VERSION_HEX >= 0x030C0000
    spec.flags |= Py_TPFLAGS_IMMUTABLETYPE;
#endif
    PyObject *bases = PyTuple_Pack(1, (PyObject *)base);
    if (bases == NULL) {
        return -1;
    }
    PyObject *type = PyType_FromSpecWithBases(&spec, bases);
    Py_DECREF(bases);
    if (type == NULL) {
        return -1;
    }
#if PY_VERSION_HEX < 0x030A0000
    ((PyTypeObject *)type)->tp_new = NULL;
#endif
    if (state->lazy_task_type == NULL) { /* another thread may have been faster */
        state->lazy_task_type = (PyTypeObject *)Py_NewRef(type);
    }
    Py_DECREF(type);
    return 0;
}
