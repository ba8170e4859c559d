/* The timeout of one async delivery: its clock, its timer, and what happens when that rings. */
#ifndef AEB_TIMEOUT_H
#define AEB_TIMEOUT_H

#include "handler_task.h"

/* The time of the running loop in seconds, for aeb_timeout_arm().  Never raises. */
double aeb_timeout_clock(aeb_handler_task *self);

/* Sets the timer of a delivery that began at `start` and is unfinished.  Never raises. */
void aeb_timeout_arm(aeb_handler_task *self, double start);

void aeb_timeout_cancel(aeb_handler_task *self);

/* The delivery is over.  Never raises. */
static inline void
aeb_timeout_disarm(aeb_handler_task *self)
{
    if (AEB_UNLIKELY(self->timer != NULL)) {
        aeb_timeout_cancel(self);
    }
}

/* The timer has rung: cancels the task, unless the bus has done so before.  None or NULL. */
PyObject *aeb_timeout_expire(aeb_handler_task *self);

#endif
