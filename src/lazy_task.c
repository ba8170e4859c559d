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
 * place of the loop that refuses its call_soon, and with a coroutine that is over; so no method of
 * asyncio.Task, however it is called, finds an uninitialised field.  What would be
 * wrong until it is real (its loop, name, coroutine and context) is answered by this subclass from
 * the delivery.  What is done to a blank task (a request to cancel, callbacks) is read back from it
 * and done again once it is real.
 *
 * This file has the life of such a task.  lazy_type.c is the type with its attributes; lazy_load.c
 * makes what stands in place of a loop, and finds out whether all this can be done here.
 *
 * Whether anything has been done to it shows at once: its fields are compared with the `image` that
 * was taken of them.  The reference count tells whether anybody has kept it.
 *
 * Not used where asyncio.Task is not the C class, in builds without the GIL (reference counts say
 * less there) and from 3.14 on (its tasks have not been tried); handler_start.c then makes ordinary
 * tasks.  AEB_NO_LAZY_TASKS does the same, for the sake of tests.
 */
#include "lazy_parts.h"

int
aeb_lazy_ensure_delivery(PyObject *task)
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
    if (aeb_lazy_ensure_delivery(task) < 0) {
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
task_attribute(PyObject *task, PyObject *name)
{
    PyObject *value = PyObject_GenericGetAttr(task, name);
    if (value == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
    }
    return value;
}

/* add_done_callback(callback, context=context).  0 or -1. */
static int
add_callback(aeb_state *state, PyObject *task, PyObject *callback, PyObject *context)
{
    PyObject *answer = NULL, *add = task_attribute(task, state->str_add_done_callback);
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

/* Remembers what a blank task looks like.  The fields of asyncio.Task are nobody's business, and so
 * they are only ever compared. */
static int
take_image(PyObject *task)
{
    aeb_task_fields *fields = aeb_task_fields_of(task);
    size_t size = (size_t)aeb_lazy_task_class(task)->tp_basicsize - sizeof(PyObject);
    fields->image = PyMem_Malloc(size);
    if (fields->image == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memcpy(fields->image, task + 1, size);
    fields->n_image = size / sizeof(uintptr_t);
    return 0;
}

void
aeb_lazy_forget_image(PyObject *task)
{
    aeb_task_fields *fields = aeb_task_fields_of(task);
    PyMem_Free(fields->image);
    fields->image = NULL;
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
    PyObject *args = Py_NewRef(state->blank_args), *kwargs = Py_NewRef(state->blank_kwargs);
    int status = aeb_lazy_task_class(task)->tp_init(task, args, kwargs);
    Py_DECREF(args);
    Py_DECREF(kwargs);
#if PY_VERSION_HEX < 0x030B0000
    PyObject *exc = aeb_take_exception();
    (void)PyContext_Exit(empty);
    Py_DECREF(empty);
    aeb_restore_exception_steal(exc);
#endif
    if (status < 0 && PyErr_ExceptionMatches(state->no_loop_error)) {
        PyErr_Clear();
        status = PyObject_GenericSetAttr(task, state->str_log_destroy_pending, Py_False);
        status = status < 0 ? -1 : take_image(task);
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
    while (AEB_LIKELY(state->n_free_tasks > 0)) {
        PyObject *task = state->free_tasks[--state->n_free_tasks];
        /* Somebody may have found it meanwhile, with gc.get_objects(), and have cancelled it. */
        if (AEB_LIKELY(Py_REFCNT(task) == 1 && !aeb_task_fields_of(task)->touched)) {
            return task;
        }
        Py_DECREF(task);
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
    PyObject *callbacks;  /* list of (callback, context), or NULL */
    PyObject *message;    /* of the request to cancel, or NULL */
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
marks_read(aeb_state *state, PyObject *task, lazy_marks *marks)
{
    const aeb_task_fields *fields = aeb_task_fields_of(task);
    *marks = (lazy_marks){0};
    if (fields->image == NULL || aeb_task_is_unchanged(task, fields)) {
        return 0;
    }
    PyObject *must_cancel = task_attribute(task, state->str_must_cancel);
    marks->must_cancel = must_cancel == Py_True;
    Py_XDECREF(must_cancel);
    marks->message = PyErr_Occurred() ? NULL : task_attribute(task, state->str_cancel_message);
    marks->callbacks = PyErr_Occurred() ? NULL : task_attribute(task, state->str_callbacks);
    PyObject *attributes = PyErr_Occurred() ? NULL : PyObject_GenericGetDict(task, NULL);
    if (attributes != NULL) {
        marks->attributes = PyDict_Copy(attributes);
        Py_DECREF(attributes);
    }
    PyObject *method =
        PyErr_Occurred() ? NULL : task_attribute(task, state->str_cancelling); /* 3.11 */
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
add_callbacks(aeb_state *state, PyObject *task, PyObject *callbacks)
{
    Py_ssize_t n = callbacks == NULL || callbacks == Py_None ? 0 : PyList_GET_SIZE(callbacks);
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *callback, *context;
        if (!PyArg_ParseTuple(PyList_GET_ITEM(callbacks, i), "OO", &callback, &context) ||
            add_callback(state, task, callback, context) < 0) {
            return -1;
        }
    }
    return 0;
}

/* Calls a method of `type` on the task; its answer is of no interest.  0 or -1. */
static int
call_unbound(PyTypeObject *type, PyObject *name, PyObject *task, PyObject *arg)
{
    PyObject *method = PyObject_GetAttr((PyObject *)type, name);
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
repeat_cancels(aeb_state *state, PyObject *task, const lazy_marks *marks)
{
    PyTypeObject *type = aeb_lazy_task_class(task);
    Py_ssize_t n = marks->cancelling > 0 ? marks->cancelling : marks->must_cancel;
    for (Py_ssize_t i = 0; marks->must_cancel && i < n; i++) {
        if (call_unbound(type, state->str_cancel, task, marks->message) < 0) {
            return -1;
        }
    }
    if (marks->must_cancel && marks->cancelling == 0 &&
        PyObject_HasAttr((PyObject *)type, state->str_uncancel)) {
        return call_unbound(type, state->str_uncancel, task, NULL);
    }
    return 0;
}

PyObject *
aeb_lazy_name(PyObject *task)
{
    aeb_task_fields *fields = aeb_task_fields_of(task);
    return fields->name != NULL
               ? Py_NewRef(fields->name)
               : aeb_subscription_task_name(fields->delivery->sub, fields->delivery->name);
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
    if (marks_read(state, task, &marks) < 0) {
        return -1;
    }
    int status = -1;
    PyObject *kwargs = PyDict_New(), *name = aeb_lazy_name(task);
    bool blank = fields->image != NULL;
    aeb_lazy_forget_image(task);
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
            (void)aeb_lazy_task_class(task)->tp_clear(task);
        }
        status = call_init(aeb_lazy_task_class(task)->tp_init, task, (PyObject *)delivery, kwargs);
    }
    if (status == 0 && marks.attributes != NULL && PyDict_GET_SIZE(marks.attributes) > 0) {
        PyObject *attributes = PyObject_GenericGetDict(task, NULL);
        status = attributes == NULL ? -1 : PyDict_Update(attributes, marks.attributes);
        Py_XDECREF(attributes);
    }
    if (status == 0) {
        status = add_callbacks(state, task, marks.callbacks);
    }
    if (status == 0) {
        status = repeat_cancels(state, task, &marks);
    }
    marks_clear(&marks);
    return status;
}

int
aeb_task_finish(PyObject *task, PyObject *failure, bool cancelled)
{
    aeb_task_fields *fields = aeb_task_fields_of(task);
    PyTypeObject *future = aeb_lazy_future_class(task);
    aeb_state *state = fields->delivery->state;
    lazy_marks marks;
    if (marks_read(state, task, &marks) < 0) { /* somebody has given it attributes that fail */
        PyErr_WriteUnraisable(task);
        marks = (lazy_marks){0};
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
        status = add_callbacks(state, task, marks.callbacks);
    }
    if (status == 0 && (cancelled || marks.must_cancel)) {
        status = call_unbound(future, state->str_cancel, task, marks.message);
    }
    else if (status == 0 && failure != NULL) {
        status = call_unbound(future, state->str_set_exception, task, failure);
        if (status == 0) { /* it has been reported: nobody has to retrieve it */
            status = PyObject_GenericSetAttr(task, state->str_log_traceback, Py_False);
        }
    }
    else if (status == 0) {
        status = call_unbound(future, state->str_set_result, task, Py_None);
    }
    aeb_lazy_forget_image(task);
    fields->starter = NULL;
    marks_clear(&marks);
    return status;
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
