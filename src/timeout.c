/* The timeout of one async delivery: its clock, its timer, and what happens when that rings.
 *
 * The clock starts before the handler is called; a timer is made only when the handler is unfinished
 * after its first step, so one that never suspends costs two looks at a clock at most.  Where a loop
 * cannot tell the time or set a timer, that is unraisable and the handler runs without a limit.
 */
#include "timeout.h"

#include "aio.h"

/* The running loop, a new reference; NULL with an exception when there is none. */
static PyObject *
running_loop(aeb_handler_task *self)
{
    PyObject *loop;
    if (aeb_aio_running_loop(self->state, &loop) == 0 && loop == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "no running event loop");
    }
    return loop;
}

double
aeb_timeout_clock(aeb_handler_task *self)
{
    PyObject *loop = running_loop(self);
    PyObject *time = loop == NULL ? NULL : PyObject_CallMethodNoArgs(loop, self->state->str_time);
    double now = time == NULL ? -1.0 : PyFloat_AsDouble(time);
    if (now == -1.0 && PyErr_Occurred()) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_XDECREF(time);
    Py_XDECREF(loop);
    return now;
}

void
aeb_timeout_arm(aeb_handler_task *self, double start)
{
    PyObject *loop = running_loop(self), *expire = NULL, *timer = NULL;
    if (loop != NULL) {
        expire = PyObject_GetAttr((PyObject *)self, self->state->str_expire);
    }
    if (expire != NULL) {
        timer = PyObject_CallMethod(loop, "call_at", "dO", start + self->sub->timeout, expire);
    }
    if (timer == NULL) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    PyObject *before;
    AEB_LOCK(self);
    before = self->timer;
    self->timer = timer;
    AEB_UNLOCK();
    Py_XDECREF(before);
    if (AEB_UNLIKELY(AEB_IS_OVER(self))) { /* another thread has closed it meanwhile */
        aeb_timeout_cancel(self);
    }
    Py_XDECREF(expire);
    Py_XDECREF(loop);
}

void
aeb_timeout_cancel(aeb_handler_task *self)
{
    PyObject *timer;
    AEB_LOCK(self);
    timer = self->timer;
    self->timer = NULL;
    AEB_UNLOCK();
    if (timer == NULL) {
        return;
    }
    PyObject *exc = aeb_take_exception();
    PyObject *answer = PyObject_CallMethodNoArgs(timer, self->state->str_cancel);
    if (answer == NULL) {
        PyErr_WriteUnraisable(timer);
    }
    Py_XDECREF(answer);
    Py_DECREF(timer);
    aeb_restore_exception_steal(exc);
}

PyObject *
aeb_timeout_expire(aeb_handler_task *self)
{
    PyObject *timer, *task = NULL;
    AEB_LOCK(self);
    timer = self->timer;
    self->timer = NULL;
    if (AEB_LOAD(self->status) == AEB_HANDLER_SUSPENDED && !AEB_LOAD(self->cancel_requested) &&
        self->task != NULL) {
        self->timed_out = true;
        (void)AEB_ADD(self->bus->n_timed_out, 1);
        task = Py_NewRef(self->task);
    }
    AEB_UNLOCK();
    Py_XDECREF(timer);
    if (task == NULL) {
        Py_RETURN_NONE;
    }
    PyObject *answer = PyObject_CallMethodNoArgs(task, self->state->str_cancel);
    Py_DECREF(task);
    return answer;
}
