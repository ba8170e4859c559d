/* asyncio as the core sees it: running loops, tasks, futures.
 *
 * Everything goes through the functions that asyncio documents for those who write loops and tasks,
 * so uvloop and other loops work as well as the standard one.
 */
#include "aio.h"

#include "lazy_task.h"
#include "subscription.h"

static int
import_attribute(const char *module_name, const char *name, PyObject *AEB_SHARED *slot)
{
    PyObject *module = PyImport_ImportModule(module_name);
    if (module == NULL) {
        return -1;
    }
    PyObject *found = PyObject_GetAttrString(module, name);
    Py_DECREF(module);
    if (found == NULL) {
        return -1;
    }
    aeb_fill_once(slot, found);
    return 0;
}

void
aeb_aio_forget(aeb_state *state)
{
    Py_CLEAR(state->get_running_loop);
    Py_CLEAR(state->plain_loop_type);
    Py_CLEAR(state->current_task);
    aeb_task_forget(state);
    Py_CLEAR(state->task_class);
    Py_CLEAR(state->run_to_completion); /* its globals hold asyncio */
}

/* Before 3.12 asyncio's C module has static variables, which are reset when it is freed at the end
 * of an interpreter.  They refer to our coroutine types and so to our state; if that referred back
 * to asyncio until then, the next interpreter would inherit functions of a dead one.  In 3.12 and
 * 3.13 that module is not freed once a task has waited for a future, and neither is what its state
 * refers to: our types, our state, and with asyncio all modules of the interpreter.  (Without a GIL
 * daemon threads go on using what would be let go of.) */
#if PY_VERSION_HEX < 0x030E0000 && AEB_HAS_GIL
static int
forget_at_exit(void)
{
    PyObject *forget = NULL, *reg = NULL, *result = NULL;
    if (import_attribute("agent_event_bus._core", "_forget_asyncio", &forget) == 0 &&
        import_attribute("atexit", "register", &reg) == 0) {
        result = PyObject_CallOneArg(reg, forget);
    }
    int status = result == NULL ? -1 : 0;
    Py_XDECREF(result);
    Py_XDECREF(reg);
    Py_XDECREF(forget);
    return status;
}
#else
static int
forget_at_exit(void)
{
    return 0;
}
#endif

int
aeb_aio_load(aeb_state *state)
{
    /* Filled last, so its presence says that all the others are there. */
    if (AEB_LIKELY(AEB_LOAD(state->get_running_loop) != NULL)) {
        return 0;
    }
    if (AEB_LOAD(state->current_handler) == NULL) {
        PyObject *fresh = PyContextVar_New("agent_event_bus.current_handler", NULL);
        if (fresh != NULL) {
            aeb_fill_once(&state->current_handler, fresh);
        }
    }
    if (state->current_handler == NULL || forget_at_exit() < 0 ||
        import_attribute("asyncio", "CancelledError", &state->cancelled_error) < 0 ||
        import_attribute("asyncio", "Task", &state->task_class) < 0 ||
        import_attribute("asyncio", "current_task", &state->current_task) < 0 ||
        aeb_task_load(state, state->task_class) < 0 ||
        import_attribute("asyncio", "_get_running_loop", &state->get_running_loop) < 0) {
        return -1;
    }
    return 0;
}

/* Moves a result into *slot, NULL for None. */
static int
store_unless_none(PyObject *result_steal, PyObject **slot)
{
    if (result_steal == NULL) {
        return -1;
    }
    if (result_steal == Py_None) {
        Py_DECREF(result_steal);
        return 0;
    }
    *slot = result_steal;
    return 0;
}

int
aeb_aio_running_loop(aeb_state *state, PyObject **loop)
{
    *loop = NULL;
    if (aeb_aio_load(state) < 0) {
        return -1;
    }
    return store_unless_none(aeb_call_builtin(state->get_running_loop, NULL, 0), loop);
}

int
aeb_aio_current_task(aeb_state *state, PyObject *loop, PyObject **task)
{
    *task = NULL;
    return store_unless_none(aeb_call_builtin(state->current_task, &loop, 1), task);
}

/* asyncio's own loops answer get_task_factory() with an attribute.  Once it is known that a type of
 * loop inherits that method and that its instances have the attribute, it is read directly: this
 * happens in every emit_async. */
static int
find_plain_loop_type(aeb_state *state, PyObject *loop)
{
    PyObject *base = NULL, *wanted = NULL, *found = NULL;
    if (import_attribute("asyncio", "BaseEventLoop", &base) == 0) {
        wanted = PyObject_GetAttr(base, state->str_get_task_factory);
        found = PyObject_GetAttr((PyObject *)Py_TYPE(loop), state->str_get_task_factory);
        if (wanted != NULL && wanted == found &&
            Py_TYPE(loop)->tp_getattro == PyObject_GenericGetAttr &&
            PyObject_HasAttr(loop, state->str_task_factory)) {
            /* Without a GIL the first one stays: others may be looking at it. */
            if (AEB_HAS_GIL) {
                Py_CLEAR(state->plain_loop_type);
            }
            aeb_fill_once(&state->plain_loop_type, Py_NewRef((PyObject *)Py_TYPE(loop)));
        }
    }
    Py_XDECREF(base);
    Py_XDECREF(wanted);
    Py_XDECREF(found);
    return PyErr_Occurred() ? aeb_clear_ordinary_exception() : 0;
}

int
aeb_aio_task_factory(aeb_state *state, PyObject *loop, PyObject **factory)
{
    *factory = NULL;
    PyObject *found;
    if (AEB_LIKELY((PyObject *)Py_TYPE(loop) == AEB_LOAD(state->plain_loop_type))) {
        found = PyObject_GenericGetAttr(loop, state->str_task_factory);
        return store_unless_none(found, factory);
    }
    if (find_plain_loop_type(state, loop) < 0) {
        return -1;
    }
    found = PyObject_CallMethodNoArgs(loop, state->str_get_task_factory);
    if (found == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear(); /* a loop of another make: its create_task is its factory */
        *factory = Py_NewRef(loop);
        return 0;
    }
    return store_unless_none(found, factory);
}

static PyObject *
new_task_by_factory(aeb_state *state, PyObject *loop, PyObject *coro, PyObject *name)
{
    /* Without keywords: create_task hands them on, and not every factory takes them. */
    PyObject *task = PyObject_CallMethodOneArg(loop, state->str_create_task, coro);
    if (task == NULL) {
        return NULL;
    }
    PyObject *result = PyObject_CallMethodOneArg(task, state->str_set_name, name);
    /* A factory may return any future: a name is a courtesy. */
    if (result == NULL && aeb_clear_ordinary_exception() < 0) {
        Py_CLEAR(task);
    }
    Py_XDECREF(result);
    return task;
}

PyObject *
aeb_aio_new_task(aeb_state *state, PyObject *loop, PyObject *coro, PyObject *name, bool by_factory,
                 aeb_task_start start)
{
    if (by_factory) {
        return new_task_by_factory(state, loop, coro, name);
    }
    PyObject *args[] = {coro, loop, name, Py_True};
    PyObject *kwnames = state->task_kwnames;
#if PY_VERSION_HEX >= 0x030C0000
    if (start == AEB_TASK_EAGER) {
        kwnames = state->eager_task_kwnames;
    }
#else
    (void)start;
#endif
    return PyObject_Vectorcall(state->task_class, args, 1, kwnames);
}

PyObject *
aeb_aio_new_waiter(aeb_state *state, PyObject *loop)
{
    PyObject *waiter = PyObject_CallMethodNoArgs(loop, state->str_create_future);
    if (waiter != NULL &&
        PyObject_SetAttr(waiter, state->str_asyncio_future_blocking, Py_True) < 0) {
        Py_CLEAR(waiter);
    }
    return waiter;
}

int
aeb_aio_is_done(aeb_state *state, PyObject *future)
{
    PyObject *done = PyObject_CallMethodNoArgs(future, state->str_done);
    if (done == NULL) {
        return -1;
    }
    int is_done = PyObject_IsTrue(done);
    Py_DECREF(done);
    return is_done;
}

int
aeb_aio_wake(aeb_state *state, PyObject *waiter)
{
    int is_done = aeb_aio_is_done(state, waiter);
    if (is_done != 0) {
        return is_done < 0 ? -1 : 0;
    }
    PyObject *result = PyObject_CallMethodOneArg(waiter, state->str_set_result, Py_None);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}
