# How .ci/run runs its stages: in two lanes at a time, each stage with its own log. Sourced, not run.
#
# The suites run in the first lane, one after another, because some of their tests measure time. What
# needs no quiet machine runs in the second lane beside them: its output goes to a file, and is printed
# as a whole when the stage is over.
#
# Files in $work: lane/ is where the current stage of a lane works; results.LANE has a line for each
# stage; log.LANE/ has the output of stages that are over and not yet shown; failed has the end of
# what failed.

lane=first
other_lane=

# stage NAME COMMAND...: run a check in a subshell; status 77 means that it could not run here.
stage() {
    local name=$1 began=$SECONDS status result log
    shift
    case $name in
        *"$wanted"*) ;;
        *)
            printf '%-48s not asked for\n' "$name" >>"$work/results.$lane"
            return
            ;;
    esac
    place=$work/$lane
    mkdir -p "$place" "$work/log.$lane"
    set +e
    if [ "$lane" = first ]; then
        printf '\n=== %s\n' "$name"
        (
            set -e
            "$@"
        )
        status=$?
    else
        log=$work/log.$lane/$(date +%s%N)
        (
            set -e
            printf '\n=== %s (beside the suites)\n' "$name"
            "$@"
        ) >"$log.part" 2>&1 </dev/null
        status=$?
    fi
    set -e
    rm -rf "${place:?}"
    case $status in
        0) result=passed ;;
        77) result=skipped ;;
        *) result=FAILED ;;
    esac
    printf '%-48s %-8s %5d s\n' "$name" "$result" $((SECONDS - began)) >>"$work/results.$lane"
    if [ "$lane" = first ]; then
        printf '=== %s: %s\n' "$name" "$result"
        show_finished
    else
        printf '=== %s: %s\n' "$name" "$result" >>"$log.part"
        mv "$log.part" "$log"
    fi
}

# Print the output of the stages in the second lane that are over.
show_finished() {
    local log
    for log in "$work"/log.second/*; do
        case $log in
            *.part | *'*') ;;
            *)
                cat "$log"
                rm "$log"
                ;;
        esac
    done
}

# in_second_lane FUNCTION: start a function that runs stages, beside what follows.
in_second_lane() {
    mkdir -p "$work/log.second"
    set -m # a process group of its own, to be ended as a whole
    (
        trap - EXIT INT HUP TERM
        lane=second
        "$1"
        touch "$work/complete.second"
    ) &
    other_lane=$!
    set +m
}

# End what runs in the second lane, when all of it is ended by hand.
end_second_lane() {
    if [ -n "$other_lane" ] && kill -0 "$other_lane" 2>/dev/null; then
        kill -TERM -- "-$other_lane" 2>/dev/null || true
        wait "$other_lane" 2>/dev/null || true
    fi
}

# Wait for the second lane, and show what has come of it.
join_second_lane() {
    while kill -0 "$other_lane" 2>/dev/null; do
        show_finished
        sleep 1
    done
    wait "$other_lane" || true
    show_finished
    if [ ! -e "$work/complete.second" ]; then
        printf '%-48s %-8s\n' "the second lane came to its end" FAILED >>"$work/results.second"
    fi
}

# Print the table of all stages. The status is that of everything: 1 when something failed, or
# nothing was run.
summary() {
    local lines failures ran
    lines=$(cat "$work"/results.*)
    failures=$(grep -cE ' FAILED( |$)' <<<"$lines" || true)
    ran=$(grep -cvE ' not asked for$' <<<"$lines" || true)
    printf '%s\n' "$lines"
    for ((minor = 9; minor <= newest_known; minor++)); do
        case " ${versions[*]}" in
            *" 3.$minor."*) ;;
            *) printf '%-48s not found on this machine\n' "demo, tests, warnings, Python 3.$minor" ;;
        esac
    done
    printf '%d failed, %d s\n' "$failures" "$SECONDS"
    [ "$failures" -eq 0 ] && [ "$ran" -gt 0 ]
}
