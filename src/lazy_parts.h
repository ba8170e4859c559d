/* What the files of the lazily made task share: lazy_task.c, lazy_type.c and lazy_load.c. */
#ifndef AEB_LAZY_PARTS_H
#define AEB_LAZY_PARTS_H

#include "lazy_task.h"

/* The C class asyncio.Task, of which the type of `task` is a subclass. */
static inline PyTypeObject *
aeb_lazy_task_class(PyObject *task)
{
    return Py_TYPE(task)->tp_base;
}

/* The C class asyncio.Future, of which that is one. */
static inline PyTypeObject *
aeb_lazy_future_class(PyObject *task)
{
    return Py_TYPE(task)->tp_base->tp_base;
}

/* Makes the delivery of a first step that runs without one: somebody wants to know.  0 or -1. */
int aeb_lazy_ensure_delivery(PyObject *task);

/* What set_name() was given, else the name made of the event's and the handler's.  The task must
 * have a delivery. */
PyObject *aeb_lazy_name(PyObject *task);

/* It is no blank task any more. */
void aeb_lazy_forget_image(PyObject *task);

/* Makes state->lazy_task_type, a subclass of `base`, which is_c_task() has approved.  0 or -1. */
int aeb_lazy_make_type(aeb_state *state, PyTypeObject *base);

#endif
