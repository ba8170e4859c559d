/* The asyncio.Task that an async handler runs under, made in full only when it has to be.
 *
 * Most async handlers never suspend, and then a task, its registration and its turns of the loop
 * are waste.  Still a handler must find its own current_task() from its first step on: timeouts,
 * task groups and cancel scopes take hold of it there.  So the first step runs under a "blank"
 * task, an instance of a subclass of asyncio.Task that no loop knows:
 *
 *     BLANK --the handler suspends--> real (aeb_task_make): Task.__init__ with the loop
 *       |  \--over, but somebody has it--> done (aeb_task_finish): only its future part is used
 *       \-----over, and nobody has it--> BLANK, for the next handler
 *
 * A blank task is a valid one all the same.  Task.__init__ has run on it once, with an object in
 * place of the loop that takes its call_soon and forgets it, and with a coroutine that is over; so
 * no method of asyncio.Task, however it is called, finds an uninitialised field.  What would be
 * wrong until it is real (its loop, name, coroutine and context) is answered by this subclass from
 * the delivery.  What is done to a blank task (a request to cancel, callbacks) is read back from it
 * and done again once it is real.
 *
 * `touched` tells whether anything may have been done to it: every attribute access counts but for
 * a few that only read.  Reference count and weak references tell whether anybody has kept it.
 *
 * Not used where asyncio.Task is not the C class, in builds without the GIL (reference counts say
 * less there) and from 3.14 on (its tasks have not been tried); handler_start.c then makes ordinary
 * tasks.  AEB_NO_LAZY_TASKS does the same, for the sake of tests.
 */
#include "lazy_task.h"

static inline PyTypeObject *
task_type_of(PyObject *task)
{
    return Py_TYPE(task)->tp_base;
}

static inline PyTypeObject *
future_type_of(PyObject *task)
{
    return Py_TYPE(task)->tp_base->tp_base;
}

/* Makes the delivery of a first step that runs without one: somebody wants to know. */
static int
ensure_delivery(PyObject *task)
{
    aeb_task_fields *fields = aeb_task_fields_of(task);
    return fields->delivery == NULL && fields->starter != NULL
               ? aeb_starter_make_delivery(fields->starter)
               : 0;
}

int
aeb_task_delivery(aeb_state *state, PyObject *task, aeb_handler_task **found)
{
    *found = NULL;
    if (task == NULL || state->lazy_task_type == NULL || Py_TYPE(task) != state->lazy_task_type) {
        return 0;
    }
    if (ensure_delivery(task) < 0) {
        return -1;
    }
    *found = (aeb_handler_task *)Py_XNewRef((PyObject *)aeb_task_fields_of(task)->delivery);
    return 0;
}

/* ---- blank tasks ----------------------------------------------------------------------------- */

/* tp_init of a base class: init(task, *args, **kwargs). */
static int
call_init(initproc init, PyObject *task, PyObject *coro, PyObject *kwargs_steal)
{
    int status = -1;
    PyObject *args = coro == NULL ? PyTuple_New(0) : PyTuple_Pack(1, coro);
    if (args != NULL && kwargs_steal != NULL) {
        status = init(task, args, kwargs_steal);
    }
    Py_XDECREF(args);
    Py_XDECREF(kwargs_steal);
    return status;
}

/* Reads an attribute in the way of asyncio.Task; NULL, without an exception, when it has none. */
static PyObject *
task_attribute(PyObject *task, const char *name)
{
    PyObject *text = PyUnicode_FromString(name);
    PyObject *value = text == NULL ? NULL : PyObject_GenericGetAttr(task, text);
    Py_XDECREF(text);
    if (value == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
    }
    return value;
}

/* What asyncio.Task itself has for an attribute that this subclass overrides. */
static PyObject *
base_attribute(PyObject *task, const char *name)
{
    PyTypeObject *base = task_type_of(task);
    PyObject *value = NULL, *descriptor = PyObject_GetAttrString((PyObject *)base, name);
    if (descriptor != NULL) {
        value = Py_TYPE(descriptor)->tp_descr_get(descriptor, task, (PyObject *)base);
        Py_DECREF(descriptor);
    }
    return value;
}

static void no_loop_dealloc(PyObject *self);

static bool
is_no_loop(PyObject *obj)
{
    return Py_TYPE(obj)->tp_dealloc == no_loop_dealloc;
}

/* The list of done-callbacks, as (callback, context); None when there are none. */
static PyObject *
callbacks_of(PyObject *task)
{
    PyObject *callbacks = base_attribute(task, "_callbacks");
    if (callbacks == NULL || !PyList_Check(callbacks)) {
        return callbacks;
    }
    for (Py_ssize_t i = PyList_GET_SIZE(callbacks) - 1; i >= 0; i--) {
        PyObject *pair = PyList_GET_ITEM(callbacks, i);
        if (PyTuple_Check(pair) && is_no_loop(PyTuple_GET_ITEM(pair, 0)) &&
            PyList_SetSlice(callbacks, i, i + 1, NULL) < 0) {
            Py_DECREF(callbacks);
            return NULL;
        }
    }
    if (PyList_GET_SIZE(callbacks) == 0) {
        Py_SETREF(callbacks, Py_NewRef(Py_None));
    }
    return callbacks;
}

/* add_done_callback(callback, context=context).  0 or -1. */
static int
add_callback(PyObject *task, PyObject *callback, PyObject *context)
{
    PyObject *answer = NULL, *add = task_attribute(task, "add_done_callback");
    PyObject *args = PyTuple_Pack(1, callback);
    PyObject *kwargs = Py_BuildValue("{sO}", "context", context);
    if (add != NULL && args != NULL && kwargs != NULL) {
        answer = PyObject_Call(add, args, kwargs);
    }
    Py_XDECREF(add);
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
    Py_XDECREF(answer);
    return answer == NULL ? -1 : 0;
}

/* Task.__init__ with the arguments of make_blank_arguments().  It fills in every field, then asks
 * what stands for the loop to call it soon; that refuses, so it ends there and puts the task in no
 * list of tasks.  0 or -1. */
static PyObject *
new_blank_task(aeb_state *state)
{
    PyObject *task = aeb_type_alloc(state->lazy_task_type, 0);
    if (task == NULL) {
        return NULL;
    }
#if PY_VERSION_HEX < 0x030B0000
    PyObject *empty = PyContext_New(); /* its own, for it may be entered in several threads */
    if (empty == NULL || PyContext_Enter(empty) < 0) {
        Py_XDECREF(empty);
        Py_DECREF(task);
        return NULL;
    }
#endif
    int status = task_type_of(task)->tp_init(task, state->blank_args, state->blank_kwargs);
#if PY_VERSION_HEX < 0x030B0000
    PyObject *exc = aeb_take_exception();
    (void)PyContext_Exit(empty);
    Py_DECREF(empty);
    aeb_restore_exception_steal(exc);
#endif
    if (status < 0 && PyErr_ExceptionMatches(state->no_loop_error)) {
        PyErr_Clear();
        status = PyObject_GenericSetAttr(task, state->str_log_destroy_pending, Py_False);
        /* Should somebody end it by force, it asks to have this called soon. */
        status = status < 0 ? -1 : add_callback(task, state->no_loop, state->empty_context);
    }
    else if (status == 0) {
        PyErr_SetString(PyExc_SystemError, "asyncio.Task did not use its loop");
        status = -1;
    }
    if (status < 0) {
        Py_CLEAR(task);
    }
    return task;
}

PyObject *
aeb_task_take(aeb_state *state)
{
    if (AEB_LIKELY(state->n_free_tasks > 0)) {
        return state->free_tasks[--state->n_free_tasks];
    }
    return new_blank_task(state);
}

void
aeb_task_give_back(aeb_state *state, PyObject *task_steal)
{
    if (AEB_LIKELY(state->n_free_tasks < AEB_MAX_FREE) &&
        Py_TYPE(task_steal) == state->lazy_task_type) {
        aeb_task_fields_of(task_steal)->starter = NULL;
        state->free_tasks[state->n_free_tasks++] = task_steal;
        return;
    }
    Py_DECREF(task_steal);
}

void
aeb_task_assign(PyObject *task, aeb_handler_task *delivery, PyObject *context)
{
    aeb_task_fields *fields = aeb_task_fields_of(task);
    fields->delivery = (aeb_handler_task *)Py_NewRef((PyObject *)delivery);
    fields->context = Py_XNewRef(context);
}

void
aeb_task_unassign(PyObject *task)
{
    aeb_task_fields *fields = aeb_task_fields_of(task);
    PyObject *delivery = (PyObject *)fields->delivery, *context = fields->context;
    fields->delivery = NULL;
    fields->context = NULL;
    Py_XDECREF(context);
    Py_XDECREF(delivery);
}

/* ---- what becomes of them -------------------------------------------------------------------- */

/* What was done to a blank task, to be done again after its initialisation. */
typedef struct {
    PyObject *attributes; /* dict of those set on the instance, or NULL */
    PyObject *callbacks; /* list of (callback, context), or NULL */
    PyObject *message;   /* of the request to cancel, or NULL */
    Py_ssize_t cancelling;
    bool must_cancel;
} lazy_marks;

static void
marks_clear(lazy_marks *marks)
{
    Py_CLEAR(marks->attributes);
    Py_CLEAR(marks->callbacks);
    Py_CLEAR(marks->message);
}

static int
marks_read(PyObject *task, lazy_marks *marks)
{
    *marks = (lazy_marks){0};
    if (!aeb_task_fields_of(task)->touched) {
        return 0;
    }
    PyObject *must_cancel = task_attribute(task, "_must_cancel");
    marks->must_cancel = must_cancel == Py_True;
    Py_XDECREF(must_cancel);
    marks->message = PyErr_Occurred() ? NULL : task_attribute(task, "_cancel_message");
    marks->callbacks = PyErr_Occurred() ? NULL : callbacks_of(task);
    PyObject *attributes = PyErr_Occurred() ? NULL : PyObject_GenericGetDict(task, NULL);
    if (attributes != NULL) {
        marks->attributes = PyDict_Copy(attributes);
        Py_DECREF(attributes);
    }
    PyObject *method = PyErr_Occurred() ? NULL : task_attribute(task, "cancelling"); /* 3.11 */
    if (method != NULL) {
        PyObject *number = PyObject_CallNoArgs(method);
        marks->cancelling = number == NULL ? -1 : PyLong_AsSsize_t(number);
        Py_XDECREF(number);
        Py_DECREF(method);
    }
    if (PyErr_Occurred()) {
        marks_clear(marks);
        return -1;
    }
    return 0;
}

static int
add_callbacks(PyObject *task, PyObject *callbacks)
{
    Py_ssize_t n = callbacks == NULL || callbacks == Py_None ? 0 : PyList_GET_SIZE(callbacks);
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *callback, *context;
        if (!PyArg_ParseTuple(PyList_GET_ITEM(callbacks, i), "OO", &callback, &context) ||
            add_callback(task, callback, context) < 0) {
            return -1;
        }
    }
    return 0;
}

/* Calls a method of `type` on the task; its answer is of no interest.  0 or -1. */
static int
call_unbound(PyTypeObject *type, const char *name, PyObject *task, PyObject *arg)
{
    PyObject *method = PyObject_GetAttrString((PyObject *)type, name);
    if (method == NULL) {
        return -1;
    }
    PyObject *answer = PyObject_CallFunctionObjArgs(method, task, arg, NULL);
    Py_DECREF(method);
    Py_XDECREF(answer);
    return answer == NULL ? -1 : 0;
}

/* Repeats requests to cancel, and those taken back, on a task that has become real. */
static int
repeat_cancels(PyObject *task, const lazy_marks *marks)
{
    PyTypeObject *type = task_type_of(task);
    Py_ssize_t n = marks->cancelling > 0 ? marks->cancelling : marks->must_cancel;
    for (Py_ssize_t i = 0; marks->must_cancel && i < n; i++) {
        if (call_unbound(type, "cancel", task, marks->message) < 0) {
            return -1;
        }
    }
    if (marks->must_cancel && marks->cancelling == 0 &&
        PyObject_HasAttrString((PyObject *)type, "uncancel")) {
        return call_unbound(type, "uncancel", task, NULL);
    }
    return 0;
}

static PyObject *
task_name(PyObject *task)
{
    aeb_task_fields *fields = aeb_task_fields_of(task);
    return fields->name != NULL ? Py_NewRef(fields->name)
                                : aeb_subscription_task_name(fields->delivery->sub,
                                                             fields->delivery->name);
}

PyObject *
aeb_task_alloc(aeb_handler_task *delivery, PyObject *context)
{
    PyObject *task = aeb_type_alloc(delivery->state->lazy_task_type, 0);
    if (task != NULL) {
        aeb_task_assign(task, delivery, context);
    }
    return task;
}

int
aeb_task_make(PyObject *task, bool eager)
{
    aeb_task_fields *fields = aeb_task_fields_of(task);
    aeb_handler_task *delivery = fields->delivery;
    aeb_state *state = delivery->state;
    lazy_marks marks;
    if (marks_read(task, &marks) < 0) {
        return -1;
    }
    int status = -1;
    PyObject *kwargs = PyDict_New(), *name = task_name(task);
    bool blank = fields->starter != NULL;
    fields->real = true;
    fields->starter = NULL;
    if (kwargs != NULL && name != NULL &&
        PyDict_SetItem(kwargs, state->str_loop, delivery->loop) == 0 &&
        PyDict_SetItem(kwargs, state->str_name, name) == 0) {
        status = 0;
    }
#if PY_VERSION_HEX >= 0x030B0000
    if (status == 0 && fields->context != NULL) {
        status = PyDict_SetItem(kwargs, state->str_context, fields->context);
    }
#endif
#if PY_VERSION_HEX >= 0x030C0000
    if (status == 0 && eager) {
        status = PyDict_SetItem(kwargs, state->str_eager_start, Py_True);
    }
#else
    (void)eager;
#endif
    Py_XDECREF(name);
    if (status < 0) {
        Py_XDECREF(kwargs);
    }
    else {
        if (blank) { /* Task.__init__ would overwrite a reference to a context */
            (void)task_type_of(task)->tp_clear(task);
        }
        status = call_init(task_type_of(task)->tp_init, task, (PyObject *)delivery, kwargs);
    }
    if (status == 0 && marks.attributes != NULL && PyDict_GET_SIZE(marks.attributes) > 0) {
        PyObject *attributes = PyObject_GenericGetDict(task, NULL);
        status = attributes == NULL ? -1 : PyDict_Update(attributes, marks.attributes);
        Py_XDECREF(attributes);
    }
    if (status == 0) {
        status = add_callbacks(task, marks.callbacks);
    }
    if (status == 0) {
        status = repeat_cancels(task, &marks);
    }
    marks_clear(&marks);
    return status;
}

int
aeb_task_finish(PyObject *task, PyObject *failure, bool cancelled)
{
    aeb_task_fields *fields = aeb_task_fields_of(task);
    PyTypeObject *future = future_type_of(task);
    aeb_state *state = fields->delivery->state;
    lazy_marks marks;
    if (marks_read(task, &marks) < 0) {
        return -1;
    }
    /* Only the future in it is begun anew, for it now has a loop to call its callbacks. */
    PyObject *kwargs = PyDict_New();
    int status = -1;
    if (kwargs == NULL || PyDict_SetItem(kwargs, state->str_loop, fields->delivery->loop) < 0) {
        Py_XDECREF(kwargs);
    }
    else {
        status = call_init(future->tp_init, task, NULL, kwargs);
    }
    if (status == 0) {
        status = add_callbacks(task, marks.callbacks);
    }
    if (status == 0 && (cancelled || marks.must_cancel)) {
        status = call_unbound(future, "cancel", task, marks.message);
    }
    else if (status == 0 && failure != NULL) {
        status = call_unbound(future, "set_exception", task, failure);
        if (status == 0) { /* it has been reported: nobody has to retrieve it */
            status = PyObject_GenericSetAttr(task, state->str_log_traceback, Py_False);
        }
    }
    else if (status == 0) {
        status = call_unbound(future, "set_result", task, Py_None);
    }
    fields->real = true;
    fields->starter = NULL;
    marks_clear(&marks);
    return status;
}

/* ---- the Python type ------------------------------------------------------------------------- */

/* Whether reading this attribute leaves a task as it was. */
static bool
only_reads(aeb_state *state, PyObject *name)
{
    return name == state->str_cancelling || name == state->str_get_name ||
           name == state->str_get_coro || name == state->str_get_loop ||
           name == state->str_get_context || name == state->str_done || name == state->str_class;
}

static PyObject *
lazy_getattro(PyObject *task, PyObject *name)
{
    aeb_task_fields *fields = aeb_task_fields_of(task);
    if (!fields->real) {
        if (ensure_delivery(task) < 0) {
            return NULL;
        }
        fields->touched |=
            fields->delivery == NULL || !only_reads(fields->delivery->state, name);
    }
    return PyObject_GenericGetAttr(task, name);
}

static int
lazy_setattro(PyObject *task, PyObject *name, PyObject *value)
{
    aeb_task_fields_of(task)->touched = true;
    if (ensure_delivery(task) < 0) {
        return -1;
    }
    return PyObject_GenericSetAttr(task, name, value);
}

static PyObject *
lazy_get_name(PyObject *task, PyObject *Py_UNUSED(ignored))
{
    if (aeb_task_fields_of(task)->delivery == NULL) {
        Py_RETURN_NONE;
    }
    return task_name(task);
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
    if (delivery == NULL) {
        Py_RETURN_NONE;
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
lazy_callbacks_attribute(PyObject *task, void *Py_UNUSED(closure))
{
    return callbacks_of(task);
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
    PyObject *answer = NULL, *method = base_attribute(task, name);
    if (method != NULL) {
        answer = PyObject_CallNoArgs(method);
        Py_DECREF(method);
    }
    return answer;
}

static PyObject *
lazy_get_context(PyObject *task, PyObject *Py_UNUSED(ignored))
{
    PyObject *context = aeb_task_fields_of(task)->context;
    return context != NULL ? Py_NewRef(context) : base_method(task, "get_context");
}
#endif

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
    return task_type_of(task)->tp_traverse(task, visit, arg);
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
    return task_type_of(task)->tp_clear(task);
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
    if (task_type_of(task)->tp_finalize != NULL) {
        task_type_of(task)->tp_finalize(task);
    }
    clear_fields(task);
}

static PyMethodDef lazy_methods[] = {
    {"get_name", lazy_get_name, METH_NOARGS,
     PyDoc_STR("The name of the task: the event's and the handler's.")},
    {"set_name", lazy_set_name, METH_O, PyDoc_STR("Give the task another name.")},
    {"get_loop", lazy_get_loop, METH_NOARGS, PyDoc_STR("The event loop of the task.")},
    {"get_coro", lazy_get_coro, METH_NOARGS,
     PyDoc_STR("The coroutine of the handler.")},
#if PY_VERSION_HEX >= 0x030C0000
    {"get_context", lazy_get_context, METH_NOARGS,
     PyDoc_STR("The context that the handler runs in.")},
#endif
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef lazy_getset[] = {
    {"_loop", lazy_loop_attribute, NULL, NULL, NULL},
    {"_coro", lazy_coro_attribute, NULL, NULL, NULL},
    {"_callbacks", lazy_callbacks_attribute, NULL, NULL, NULL},
    {"_delivery", lazy_delivery_attribute, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(lazy_doc, "The asyncio.Task that one async handler runs under.");

static PyType_Slot lazy_slots[] = {
    {Py_tp_doc, (void *)lazy_doc},     {Py_tp_getattro, lazy_getattro},
    {Py_tp_setattro, lazy_setattro},   {Py_tp_traverse, lazy_traverse},
    {Py_tp_clear, lazy_clear},         {Py_tp_finalize, lazy_finalize},
    {Py_tp_methods, lazy_methods},     {Py_tp_getset, lazy_getset},
    {0, NULL},
};

/* ---- in place of a loop ---------------------------------------------------------------------- */

static PyObject *
no_loop_get_debug(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    Py_RETURN_FALSE;
}

static PyObject *
no_loop_call_soon(PyObject *self, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs),
                  PyObject *Py_UNUSED(kwnames))
{
    aeb_state *state = aeb_state_of_type(Py_TYPE(self));
    if (state == NULL || state->no_loop_error == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "agent_event_bus has been unloaded");
        return NULL;
    }
    state->no_loop_calls++;
    PyErr_SetNone(state->no_loop_error);
    return NULL;
}

static PyMethodDef no_loop_methods[] = {
    {"get_debug", no_loop_get_debug, METH_NOARGS, NULL},
    {"is_running", no_loop_get_debug, METH_NOARGS, NULL},
    {"call_soon", AEB_METHOD(no_loop_call_soon), METH_FASTCALL | METH_KEYWORDS, NULL},
    {NULL, NULL, 0, NULL},
};

static int
no_loop_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static void
no_loop_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot no_loop_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("What a task that no loop knows has in place of one.")},
    {Py_tp_dealloc, no_loop_dealloc},
    {Py_tp_traverse, no_loop_traverse},
    {Py_tp_methods, no_loop_methods},
    {0, NULL},
};

static PyType_Spec no_loop_spec = {
    .name = "agent_event_bus._core.NoLoop",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = no_loop_slots,
};

/* ---- loading --------------------------------------------------------------------------------- */

static int
make_type(aeb_state *state, PyTypeObject *base)
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
    Py_XSETREF(state->lazy_task_type, (PyTypeObject *)type);
    return 0;
}

/* Whether `task_class` is the C class, of the layout that this file relies on. */
static bool
is_c_task(PyObject *task_class)
{
    PyObject *module = PyImport_ImportModule("_asyncio");
    PyObject *found = module == NULL ? NULL : PyObject_GetAttrString(module, "Task");
    PyErr_Clear();
    PyTypeObject *type = (PyTypeObject *)task_class;
    bool result = found == task_class && PyType_Check(found) && type->tp_weaklistoffset != 0 &&
                  type->tp_itemsize == 0 && type->tp_base != NULL &&
                  type->tp_basicsize % (Py_ssize_t)sizeof(void *) == 0;
    Py_XDECREF(found);
    Py_XDECREF(module);
    return result;
}

/* Finds asyncio's table of current tasks, a dict from loop to task, and tries whether it is the one
 * that current_task() looks into.  1 when it is, 0 when it is not, -1. */
static int
find_current_tasks(aeb_state *state)
{
    PyObject *found = NULL, *tasks = NULL, *module = PyImport_ImportModule("_asyncio");
    if (module != NULL) {
        tasks = PyObject_GetAttrString(module, "_current_tasks");
        Py_DECREF(module);
    }
    if (tasks == NULL || !PyDict_CheckExact(tasks) ||
        PyDict_SetItem(tasks, state->no_loop, state->no_loop) < 0) {
        Py_XDECREF(tasks);
        return PyErr_Occurred() ? aeb_clear_ordinary_exception() : 0;
    }
    found = PyObject_CallOneArg(state->current_task, state->no_loop);
    bool is_it = found == state->no_loop;
    Py_XDECREF(found);
    PyErr_Clear();
    if (PyDict_DelItem(tasks, state->no_loop) < 0 || !is_it) {
        Py_DECREF(tasks);
        return PyErr_Occurred() ? -1 : 0;
    }
    Py_XSETREF(state->current_tasks, tasks);
    return 1;
}

static PyObject *
context_after_set(PyObject *variable, PyObject *value)
{
    PyObject *token = PyContextVar_Set(variable, value);
    PyObject *context = token == NULL ? NULL : PyContext_CopyCurrent();
    Py_XDECREF(token);
    return context;
}

/* A context that a handler has not changed can serve the next handler of the emission as well, and
 * that it has not been changed shows at once: contexts hold their variables in an immutable map, so
 * an unchanged one still holds the same.  There is no function to ask for the map, so this looks for
 * the word of a context object in which it is held, by trial: the one that two contexts with equal
 * history share and that a change alters.  Only that word is ever compared, nothing is read through
 * it.  Where no word stands the trial every handler gets a new context. */
static int
find_context_variables(aeb_state *state)
{
    state->context_word = 0;
    PyObject *variable = PyContextVar_New("agent_event_bus.trial", NULL);
    PyObject *outer = PyContext_New(), *copies[4] = {NULL}, *values[] = {Py_None, Py_True, Py_None};
    int status = variable == NULL || outer == NULL ? -1 : PyContext_Enter(outer);
    if (status == 0) {
        for (int i = 0; i < 3; i++) {
            copies[i] = context_after_set(variable, values[i]);
            status |= copies[i] == NULL ? -1 : 0;
        }
        copies[3] = PyContext_CopyCurrent();
        status |= copies[3] == NULL ? -1 : 0;
        (void)PyContext_Exit(outer);
    }
    if (status == 0) {
        Py_ssize_t n = Py_TYPE(outer)->tp_basicsize / (Py_ssize_t)sizeof(void *);
        void **words[4];
        for (int i = 0; i < 4; i++) {
            words[i] = (void **)copies[i];
        }
        Py_ssize_t first = (Py_ssize_t)(sizeof(PyObject) / sizeof(void *)), found = 0;
        for (Py_ssize_t word = first; word < n; word++) {
            if (words[2][word] == words[3][word] && words[2][word] != NULL &&
                words[0][word] != words[1][word] && words[1][word] != words[2][word] &&
                words[0][word] != words[2][word]) {
                state->context_word = word;
                found++;
            }
        }
        if (found != 1 || Py_TYPE(outer)->tp_weaklistoffset <= 0) {
            state->context_word = 0;
        }
    }
    for (int i = 0; i < 4; i++) {
        Py_XDECREF(copies[i]);
    }
    Py_XDECREF(variable);
    Py_XDECREF(outer);
    return status;
}

static int
make_no_loop(aeb_state *state)
{
    PyTypeObject *type = NULL;
    PyObject *module = aeb_module_of_type(state->bus_type, &aeb_module_def);
    if (module == NULL || aeb_state_add_type(module, &no_loop_spec, &type, false) < 0) {
        return -1;
    }
    state->no_loop = type->tp_alloc(type, 0);
    state->no_loop_calls = 0;
    Py_DECREF(type);
    state->no_loop_error =
        PyErr_NewException("agent_event_bus._core.NoLoopError", PyExc_Exception, NULL);
    return state->no_loop == NULL || state->no_loop_error == NULL ? -1 : 0;
}

/* The arguments of Task.__init__ for a blank task.  The context is an empty one, because the task
 * would else copy the current one and keep what is in it; where tasks cannot be given a context
 * (3.9, 3.10) they do. */
static int
make_blank_arguments(aeb_state *state)
{
    PyObject *coro = (PyObject *)aeb_handler_task_new_idle(state);
    if (coro == NULL) {
        return -1;
    }
    Py_XSETREF(state->blank_args, PyTuple_Pack(1, coro));
    Py_DECREF(coro);
    Py_XSETREF(state->empty_context, PyContext_New());
    if (state->empty_context == NULL) {
        return -1;
    }
    PyObject *kwargs = PyDict_New();
    Py_XSETREF(state->blank_kwargs, kwargs);
    if (state->blank_args == NULL || kwargs == NULL ||
        PyDict_SetItem(kwargs, state->str_loop, state->no_loop) < 0 ||
        PyDict_SetItem(kwargs, state->str_name, state->str_handler_name) < 0) {
        return -1;
    }
#if PY_VERSION_HEX >= 0x030B0000
    if (PyDict_SetItem(kwargs, state->str_context, state->empty_context) < 0) {
        return -1;
    }
#endif
    return 0;
}

int
aeb_task_load(aeb_state *state, PyObject *task_class)
{
    if (!AEB_LAZY_TASKS || !is_c_task(task_class)) {
        return 0;
    }
    if (state->no_loop == NULL && make_no_loop(state) < 0) {
        return -1;
    }
    int status = find_current_tasks(state);
    if (status <= 0) {
        return status;
    }
    if (find_context_variables(state) < 0 || make_blank_arguments(state) < 0) {
        return -1;
    }
    return make_type(state, (PyTypeObject *)task_class);
}

void
aeb_task_forget(aeb_state *state)
{
    while (state->n_free_tasks > 0) {
        PyObject *task = state->free_tasks[--state->n_free_tasks];
        Py_DECREF(task);
    }
    Py_CLEAR(state->lazy_task_type);
}
