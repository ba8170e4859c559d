/* asyncio as the core sees it: running loops, tasks, futures.  Imported at first use. */
#ifndef AEB_AIO_H
#define AEB_AIO_H

#include "state.h"

/* Looks everything up once.  0, or -1 when asyncio cannot be imported. */
int aeb_aio_load(aeb_state *state);

/* Forgets what aeb_aio_load() has found. */
void aeb_aio_forget(aeb_state *state);

/* The loop running in this thread: a new reference in *loop, NULL when none runs.  0 or -1. */
int aeb_aio_running_loop(aeb_state *state, PyObject **loop);

/* The task that `loop` is running: a new reference in *task, NULL when none.  0 or -1. */
int aeb_aio_current_task(aeb_state *state, PyObject *loop, PyObject **task);

/* How a new task takes its first step. */
typedef enum {
    AEB_TASK_LATER, /* in a later turn of the loop */
    AEB_TASK_EAGER, /* before aeb_aio_new_task returns, where Python can (3.12) */
} aeb_task_start;

/* The loop's own task factory: a new reference in *factory, NULL when it uses asyncio.Task.
 * 0 or -1. */
int aeb_aio_task_factory(aeb_state *state, PyObject *loop, PyObject **factory);

/* A new task of `loop` that runs `coro` in a copy of the current context: made by the loop's own
 * factory, and then when its first step is taken is the factory's affair, or an asyncio.Task. */
PyObject *aeb_aio_new_task(aeb_state *state, PyObject *loop, PyObject *coro, PyObject *name,
                           bool by_factory, aeb_task_start start);

/* A new future of `loop` that is ready to be yielded to a task. */
PyObject *aeb_aio_new_waiter(aeb_state *state, PyObject *loop);

/* Whether a future is done: 1, 0 or -1. */
int aeb_aio_is_done(aeb_state *state, PyObject *future);

/* Resolves a waiter unless it is done already.  0 or -1. */
int aeb_aio_wake(aeb_state *state, PyObject *waiter);

#endif
