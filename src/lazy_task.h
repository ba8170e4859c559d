/* The asyncio.Task that an async handler runs under, made in full only when it has to be. */
#ifndef AEB_LAZY_TASK_H
#define AEB_LAZY_TASK_H

#include "starter.h"

#if PY_VERSION_HEX < 0x030E0000 && !defined(Py_GIL_DISABLED) && !defined(AEB_NO_LAZY_TASKS)
#define AEB_LAZY_TASKS 1
#else
#define AEB_LAZY_TASKS 0
#endif

/* Creates the task type as a subclass of `task_class`, asyncio.Task.  0, also where that cannot be
 * done (see lazy_load.c): then state->lazy_task_type stays NULL.  -1 with an exception. */
int aeb_task_load(aeb_state *state, PyObject *task_class);

/* Forgets the type and the tasks kept for reuse. */
void aeb_task_forget(aeb_state *state);

/* A blank task: it can stand as the current task of a loop, but no loop knows it. */
PyObject *aeb_task_take(aeb_state *state);

/* Keeps an untouched blank task for the next one who needs it. */
void aeb_task_give_back(aeb_state *state, PyObject *task_steal);

/* What our subclass adds behind the fields of asyncio.Task, whose size depends on the version. */
typedef struct aeb_task_fields {
    aeb_starter *starter;       /* under which its first step runs, while it is blank */
    aeb_handler_task *delivery; /* strong; NULL while it waits for reuse */
    PyObject *context;          /* strong: of the first step, then of the real task */
    PyObject *name;             /* what set_name() was given, else NULL */
    uintptr_t *image; /* the fields of asyncio.Task as they are in a blank task; NULL: it is real */
    size_t n_image;   /* words */
    bool touched; /* somebody may have set an attribute, or found it while it was no handler's */
} aeb_task_fields;

static inline aeb_task_fields *
aeb_task_fields_of(PyObject *task)
{
    return (aeb_task_fields *)((char *)task + Py_TYPE(task)->tp_base->tp_basicsize);
}

/* Gives a blank task the delivery whose first step runs under it. */
void aeb_task_assign(PyObject *task, aeb_handler_task *delivery, PyObject *context);

/* Whether a blank task is as it was when it was made. */
static inline bool
aeb_task_is_unchanged(PyObject *task, const aeb_task_fields *fields)
{
    const uintptr_t *now = (const uintptr_t *)(task + 1), *then = fields->image;
    if (then == NULL || fields->touched || fields->name != NULL) {
        return false;
    }
    void *const *weakrefs = (void **)((char *)task + Py_TYPE(task)->tp_weaklistoffset);
    uintptr_t differences = (uintptr_t)weakrefs[0];
    for (size_t i = 0; i < fields->n_image; i++) {
        differences |= now[i] ^ then[i];
    }
    return differences == 0;
}

/* After a first step: whether nobody has kept the starter's task or left anything in it. */
static inline bool
aeb_task_is_untouched(const aeb_starter *starter)
{
    return Py_REFCNT(starter->task) == starter->references &&
           aeb_task_is_unchanged(starter->task, starter->fields);
}

/* Makes an untouched task blank again. */
void aeb_task_unassign(PyObject *task);

/* Makes it a real task of its delivery's loop; with `eager` (3.12) it takes a step at once.
 * 0 or -1. */
int aeb_task_make(PyObject *task, bool eager);

/* Makes it a task that is done: failed with `failure` unless that is NULL, or cancelled. */
int aeb_task_finish(PyObject *task, PyObject *failure, bool cancelled);

/* A new task for aeb_task_make(), which must follow at once; `context` may be NULL for a copy of the
 * current one. */
PyObject *aeb_task_alloc(aeb_handler_task *delivery, PyObject *context);

/* The delivery that a task runs: a new reference in *found, NULL when `task` (may be NULL) is none
 * of ours.  0 or -1. */
int aeb_task_delivery(aeb_state *state, PyObject *task, aeb_handler_task **found);

#endif
