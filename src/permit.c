/* Permits: how many async handlers of one bus run at once (max_concurrency).
 *
 * A delivery takes a permit before it is started and gives it back when it is over.  When none is
 * left it waits in a queue, and whoever gives a permit back hands it to the first one there: so
 * permits are taken in the order of arrival, and nobody overtakes.  Handing out is one thread's business
 * at a time, up to the last permit that there is, and who comes meanwhile joins the queue; also who comes
 * before the loop has started those that it was asked to, which it does in a later turn.  The queue is a
 * list through the deliveries themselves, for any of them may leave it at any time.  It holds them strongly.
 *
 * An emission made inside a handler is exempt: its handlers take no permit.  If they did, a handler
 * that awaits them would hold the very permit that they wait for.
 *
 * A loop that is closed runs no handler to its end.  Who finds no permit left looks whether some are
 * held by handlers of such loops, and ends those.
 *
 * A forked child has none of the tasks that hold permits, so a permit counts in the process that
 * gave it only.
 *
 * The queue, the permits, and the fields of deliveries that belong to them are guarded by the lock of
 * the bus.
 */
#include "permit.h"

#include "aio.h"

static void
unlink_delivery(aeb_bus *bus, aeb_handler_task *delivery)
{
    aeb_handler_task *before = delivery->queue_before, *after = delivery->queue_after;
    *(before == NULL ? &bus->first_queued : &before->queue_after) = after;
    *(after == NULL ? &bus->last_queued : &after->queue_before) = before;
    delivery->queue_before = delivery->queue_after = NULL;
    delivery->queued = false;
}

/* Gives a delivery one of the permits. */
static void
grant(aeb_bus *bus, aeb_handler_task *delivery)
{
    bus->n_permits++;
    delivery->permit = bus->permits_pid;
    delivery->queue_before = NULL;
    delivery->queue_after = bus->first_running;
    if (bus->first_running != NULL) {
        bus->first_running->queue_before = delivery;
    }
    bus->first_running = delivery;
}

/* A delivery that has a permit is not about to be started any more, if it was. */
static void
forget_starting(aeb_bus *bus, aeb_handler_task *delivery)
{
    if (delivery->starting && delivery->permit == bus->permits_pid) {
        bus->n_starting--;
    }
    delivery->starting = false;
}

/* Takes back the permit of a delivery, if it has one of this process. */
static void
take_back(aeb_bus *bus, aeb_handler_task *delivery)
{
    forget_starting(bus, delivery);
    if (delivery->permit != 0 && delivery->permit == bus->permits_pid) {
        aeb_handler_task *before = delivery->queue_before, *after = delivery->queue_after;
        bus->n_permits--;
        *(before == NULL ? &bus->first_running : &before->queue_after) = after;
        if (after != NULL) {
            after->queue_before = before;
        }
        delivery->queue_before = delivery->queue_after = NULL;
    }
    delivery->permit = 0;
}

/* Forgets what another process has left behind. */
static void
own_permits_locked(aeb_bus *bus)
{
    long pid = aeb_process(bus->state);
    if (AEB_LIKELY(bus->permits_pid == pid)) {
        return;
    }
    AEB_STORE(bus->permits_pid, pid);
    bus->n_permits = 0;
    bus->n_starting = 0;
    bus->handing_out = false;
    bus->first_running = NULL;
    while (bus->first_queued != NULL) {
        aeb_handler_task *delivery = bus->first_queued;
        unlink_delivery(bus, delivery);
        aeb_handler_task_abandon(delivery);
        Py_DECREF(delivery);
    }
}

/* What follows a delivery among those that have a permit (NULL: the first one), a new reference; NULL at
 * the end.  If the list has changed so that this one is not in it any more, from the first one again. */
static aeb_handler_task *
next_running(aeb_bus *bus, aeb_handler_task *delivery)
{
    aeb_handler_task *next;
    AEB_LOCK(bus);
    bool listed = delivery != NULL && delivery->permit != 0 && delivery->permit == bus->permits_pid;
    next = listed ? delivery->queue_after : bus->first_running;
    Py_XINCREF(next);
    AEB_UNLOCK();
    return next;
}

/* Whether the loop of a delivery is closed; `open` is one that is not.  Never raises. */
static bool
is_stranded(aeb_handler_task *delivery, PyObject *open)
{
    PyObject *loop;
    AEB_LOCK(delivery);
    loop = Py_XNewRef(delivery->loop);
    AEB_UNLOCK();
    if (loop == NULL || loop == open) {
        Py_XDECREF(loop);
        return false;
    }
    PyObject *answer = PyObject_CallMethod(loop, "is_closed", NULL);
    int closed = answer == NULL ? -1 : PyObject_IsTrue(answer);
    if (closed < 0) {
        PyErr_WriteUnraisable(loop);
    }
    Py_XDECREF(answer);
    Py_DECREF(loop);
    return closed > 0;
}

/* Ends the deliveries that have a permit and a closed loop, which would keep it for ever.  `loop` is
 * known to be open.  Never raises. */
static void
end_stranded(aeb_bus *bus, PyObject *loop)
{
    aeb_handler_task *delivery = next_running(bus, NULL);
    while (delivery != NULL) {
        if (is_stranded(delivery, loop) && AEB_LOAD(delivery->status) != AEB_HANDLER_RUNNING &&
            aeb_handler_task_close(delivery) < 0) {
            PyErr_WriteUnraisable((PyObject *)delivery);
        }
        Py_SETREF(delivery, next_running(bus, delivery));
    }
}

/* Puts a delivery at the end of the queue. */
static void
enqueue(aeb_bus *bus, aeb_handler_task *delivery, PyObject *loop, PyObject *context)
{
    Py_XSETREF(delivery->context, Py_NewRef(context));
    Py_XSETREF(delivery->loop, Py_NewRef(loop));
    delivery->queue_before = bus->last_queued;
    *(bus->last_queued == NULL ? &bus->first_queued : &bus->last_queued->queue_after) = delivery;
    bus->last_queued = (aeb_handler_task *)Py_NewRef((PyObject *)delivery);
    delivery->queued = true;
}

/* Whether there is no permit for one that comes now. */
static bool
others_come_first(const aeb_bus *bus)
{
    return bus->n_permits >= bus->max_concurrency || bus->first_queued != NULL ||
           bus->handing_out || bus->n_starting > 0;
}

static void start_next(aeb_bus *bus);

int
aeb_permit_take_limited(aeb_bus *bus, aeb_handler_task *delivery, PyObject *loop)
{
    PyObject *context = NULL;
    bool full, must_wait, hand_out = false;
    int go_ahead = 0;
    AEB_LOCK(bus);
    own_permits_locked(bus);
    full = bus->n_permits >= bus->max_concurrency;
    must_wait = others_come_first(bus);
    AEB_UNLOCK();
    if (full) {
        end_stranded(bus, loop);
    }
    if (must_wait ||
        !AEB_HAS_GIL) { /* without a GIL, it may have to by the time that is looked at again */
        /* What it will be started in: the emitter may have changed its variables by then. */
        context = PyContext_CopyCurrent();
        if (context == NULL) {
            return -1;
        }
    }
    AEB_LOCK(bus);
    /* Only now: all of that may have run finalisers, which give permits back or end this one. */
    if (AEB_LOAD(delivery->status) != AEB_HANDLER_NEW) {
        go_ahead = 0;
    }
    else if (!others_come_first(bus)) {
        grant(bus, delivery);
        go_ahead = 1;
    }
    else {
        enqueue(bus, delivery, loop, context);
        hand_out = bus->n_permits < bus->max_concurrency;
    }
    AEB_UNLOCK();
    if (hand_out) {
        start_next(bus);
    }
    Py_XDECREF(context);
    return go_ahead;
}

/* Has a delivery started by its loop, in its emitter's context.  0 or -1. */
static int
start_soon(aeb_handler_task *delivery)
{
    aeb_state *state = delivery->state;
    PyObject *running = NULL, *method = NULL, *start = NULL, *kwargs = NULL, *handle = NULL;
    PyObject *args = NULL, *context, *loop;
    AEB_LOCK(delivery);
    context = delivery->context;
    loop = Py_XNewRef(delivery->loop);
    delivery->context = NULL;
    AEB_UNLOCK();
    if (context == NULL || loop == NULL) { /* another thread has closed it meanwhile */
        Py_XDECREF(context);
        Py_XDECREF(loop);
        return 0;
    }
    if (aeb_aio_running_loop(state, &running) == 0) {
        method = PyObject_GetAttr(loop, running == loop ? state->str_call_soon
                                                        : state->str_call_soon_threadsafe);
        start = PyObject_GetAttr((PyObject *)delivery, state->str_start);
        kwargs = PyDict_New();
    }
    if (method != NULL && start != NULL && kwargs != NULL &&
        PyDict_SetItem(kwargs, state->str_context, context) == 0) {
        args = PyTuple_Pack(1, start);
    }
    if (args != NULL) {
        handle = PyObject_Call(method, args, kwargs);
    }
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
    Py_XDECREF(start);
    Py_XDECREF(method);
    Py_XDECREF(running);
    Py_XDECREF(handle);
    Py_DECREF(loop);
    Py_DECREF(context);
    return handle == NULL ? -1 : 0;
}

/* Gives the first delivery in the queue a permit, if there is one.  A new reference, or NULL, and then
 * this thread is the one to hand out no more. */
static aeb_handler_task *
grant_next(aeb_bus *bus)
{
    aeb_handler_task *granted = NULL;
    AEB_LOCK(bus);
    /* A bus that was initialised again may have lost its limit meanwhile. */
    while (granted == NULL && bus->first_queued != NULL &&
           (bus->max_concurrency == 0 || bus->n_permits < bus->max_concurrency)) {
        aeb_handler_task *delivery = bus->first_queued;
        unlink_delivery(bus, delivery);
        if (AEB_IS_OVER(delivery)) { /* its owner is being told, and got us here */
            Py_DECREF(delivery);
            continue;
        }
        grant(bus, delivery);
        delivery->starting = true;
        bus->n_starting++;
        granted = delivery;
    }
    bus->handing_out = granted != NULL;
    AEB_UNLOCK();
    return granted;
}

/* Hands out what permits there are, unless somebody does already.  Never raises. */
static void
start_next(aeb_bus *bus)
{
    bool others_do;
    AEB_LOCK(bus);
    others_do = bus->handing_out;
    bus->handing_out = true;
    AEB_UNLOCK();
    if (others_do) {
        return;
    }
    PyObject *exc = aeb_take_exception();
    aeb_handler_task *delivery;
    while ((delivery = grant_next(bus)) != NULL) {
        if (start_soon(delivery) < 0 && AEB_LOAD(delivery->status) == AEB_HANDLER_NEW) {
            /* Its loop is closed.  It has failed, and that gives its permit back at the end: to
             * `bus`, where this loop, not another one inside it, hands it on. */
            AEB_LOCK(bus);
            take_back(bus, delivery);
            AEB_UNLOCK();
            if (aeb_handler_task_fail(delivery) < 0) {
                PyErr_WriteUnraisable((PyObject *)delivery);
            }
        }
        PyErr_Clear();
        Py_DECREF(delivery);
    }
    aeb_restore_exception_steal(exc);
}

void
aeb_permit_begins(aeb_bus *bus, aeb_handler_task *delivery)
{
    AEB_LOCK(bus);
    forget_starting(bus, delivery);
    AEB_UNLOCK();
}

void
aeb_permit_give_back(aeb_bus *bus, aeb_handler_task *delivery)
{
    bool others_wait, queued;
    AEB_LOCK(bus);
    own_permits_locked(bus);
    queued = delivery->queued;
    if (queued) {
        unlink_delivery(bus, delivery);
    }
    take_back(bus, delivery);
    others_wait = bus->first_queued != NULL;
    AEB_UNLOCK();
    if (queued) {
        Py_DECREF(delivery); /* the queue's; the caller has another one */
    }
    if (AEB_UNLIKELY(others_wait)) {
        Py_INCREF(bus);
        start_next(bus);
        Py_DECREF(bus);
    }
}

int
aeb_permit_give_up_own(aeb_bus *bus)
{
    aeb_handler_task *task;
    if (AEB_LIKELY(bus->max_concurrency == 0)) {
        return 0;
    }
    if (aeb_handler_task_current(bus->state, NULL, &task) < 0) {
        return -1;
    }
    while (task != NULL) {
        bool own;
        AEB_LOCK(task);
        own = task->bus == bus;
        AEB_UNLOCK();
        if (own) {
            aeb_permit_give_back(bus, task);
        }
        Py_SETREF(task, aeb_handler_task_parent(task));
    }
    return 0;
}

int
aeb_permit_traverse(aeb_bus *bus, visitproc visit, void *arg)
{
    for (aeb_handler_task *delivery = bus->first_queued; delivery != NULL;
         delivery = delivery->queue_after) {
        Py_VISIT(delivery);
    }
    return 0;
}

void
aeb_permit_clear(aeb_bus *bus)
{
    while (bus->first_queued != NULL) {
        aeb_handler_task *delivery = bus->first_queued;
        unlink_delivery(bus, delivery);
        Py_DECREF(delivery);
    }
}
