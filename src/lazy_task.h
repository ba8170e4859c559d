/* The asyncio.Task that an async handler runs under, made in full only when it has to be. */
#ifndef AEB_LAZY_TASK_H
#define AEB_LAZY_TASK_H

#include "handler_task.h"

/* Creates the task type as a subclass of `task_class`, asyncio.Task.  0, also where that cannot be
 * done (see lazy_task.c): then state->lazy_task_type stays NULL.  -1 with an exception. */
int aeb_task_load(aeb_state *state, PyObject *task_class);

/* Forgets the type and the tasks kept for reuse. */
void aeb_task_forget(aeb_state *state);

/* A blank task: it can stand as the current task of a loop, but no loop knows it. */
PyObject *aeb_task_take(aeb_state *state);

/* Keeps an untouched blank task for the next one who needs it. */
void aeb_task_give_back(aeb_state *state, PyObject *task_steal);

/* Gives a blank task the delivery whose first step is about to run under it. */
void aeb_task_assign(PyObject *task, aeb_handler_task *delivery, PyObject *context);

/* After a first step that was also the last: true when nobody has kept the task or left anything
 * in it, and then it is blank again.  `references` is how many its starter can account for. */
bool aeb_task_unassign(PyObject *task, Py_ssize_t references);

/* Makes it a real task of its delivery's loop; with `eager` (3.12) it takes a step at once.
 * 0 or -1. */
int aeb_task_make(PyObject *task, bool eager);

/* Makes it a task that is done: failed with `failure` unless that is NULL, or cancelled. */
int aeb_task_finish(PyObject *task, PyObject *failure, bool cancelled);

/* A new real task that begins the delivery in a later turn of its loop. */
PyObject *aeb_task_new(aeb_handler_task *delivery);

/* The delivery that a task runs: borrowed, NULL when `task` (may be NULL) is none of ours. */
aeb_handler_task *aeb_task_delivery(aeb_state *state, PyObject *task);

#endif
