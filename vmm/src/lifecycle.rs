//! What may happen to a machine, and what follows: pure decisions.
//!
//! No descriptor, no clock, no thread. The main loop asks [`decide`] with the present state and an
//! input (a command, or what the guest did) and carries the steps out in order; a refusal is a text
//! for the user. States and causes are QEMU's (`RunState`, `ShutdownCause`, `set-action`), and so is
//! what follows from what, except where a comment says otherwise.
//!
//! ```text
//! prelaunch --cont--> running --stop--> paused --cont--> running
//!     ^                  |--- guest powers off or halts, pause --> shutdown
//!     |                  |--- guest panics, action pause -------> guest-panicked --cont--> running
//!     |                  |--- a disk is full -------------------> io-error -------cont--> running
//!     |                  `--- KVM gives up, a reset fails ------> internal-error
//!     `------ system_reset of anything that does not run
//! ```

use api_socket::qmp::types::{
    GuestPanicAction, PanicAction, RebootAction, RunState, ShutdownAction, ShutdownCause,
};

/// What `set-action` has set, and whether anyone could still do something about a dead guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// When the guest resets itself.
    pub reboot: RebootAction,
    /// When the guest powers itself off.
    pub shutdown: ShutdownAction,
    /// When the guest reports a panic.
    pub panic: PanicAction,
    /// Whether the machine has a control socket. Without one a guest that KVM cannot run any
    /// further ends the process, because nobody could ever ask about it.
    pub attended: bool,
}

/// What a client asked for, or a guest did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// `stop`.
    Stop,
    /// `cont`.
    Cont,
    /// `system_reset`.
    SystemReset,
    /// `system_powerdown`.
    SystemPowerdown,
    /// `quit`, a signal, or the escape key.
    Quit(ShutdownCause),
    /// The guest powered off.
    GuestShutdown,
    /// Every processor has halted with interrupts off: the end of a guest that knows no better way,
    /// and of one whose kernel was told to halt.
    GuestHalted,
    /// The guest reset itself, by register or triple fault.
    GuestReset,
    /// The guest reported a panic.
    GuestPanicked,
    /// The guest reported that its crash kernel runs.
    GuestCrashLoaded,
    /// The guest asked pvpanic for an orderly power off.
    GuestPvShutdown,
    /// A disk holds a request that must be tried again later.
    DiskStopped,
    /// KVM or the processor cannot run this guest any further.
    InternalError,
    /// [`Step::ResetMachine`] failed half way.
    ResetFailed,
}

/// What the process will tell whoever started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The guest ended, or was ended, on purpose: exit status 0.
    Clean,
    /// The guest panicked or could not be run: exit status 3.
    Crashed,
}

/// An event to tell the clients; the names are QMP's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// STOP
    Stop,
    /// RESUME
    Resume,
    /// RESET
    Reset(ShutdownCause),
    /// SHUTDOWN
    Shutdown(ShutdownCause),
    /// POWERDOWN
    Powerdown,
    /// GUEST_PANICKED
    GuestPanicked(GuestPanicAction),
    /// GUEST_CRASHLOADED
    GuestCrashLoaded,
    /// GUEST_PVSHUTDOWN
    GuestPvShutdown,
}

/// One step of what follows, in the order given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Take vCPUs and device workers back.
    Hold,
    /// Give them out again.
    Run,
    /// Put the whole machine back to power-on (it is held).
    ResetMachine,
    /// Raise the power button's interrupt.
    PressPowerButton,
    /// Tell the clients.
    Tell(Notice),
    /// End the process.
    End(Ending),
}

/// The state a machine is in afterwards, and the steps that lead there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The next state.
    pub state: RunState,
    /// What to do, in order.
    pub steps: Vec<Step>,
}

/// Why an input is refused. The text is for users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// `cont` of a guest that cannot go on.
    #[error("Resetting the Virtual Machine is required")]
    ResetRequired,
    /// A reset that could not be carried out.
    #[error("The machine could not be reset, the log says why: reset it again, or quit")]
    ResetFailed,
    /// Anything but the end while guest memory is written to a file.
    #[error("There is a dump in process, please wait.")]
    DumpInProgress,
}

/// Whether vCPUs run in `state`.
#[must_use]
pub fn runs(state: RunState) -> bool {
    state == RunState::Running
}

/// What follows from `input` in `state`.
///
/// # Errors
/// [`Denied`]: nothing changes.
pub fn decide(state: RunState, policy: &Policy, input: Input) -> Result<Plan, Denied> {
    let stay = |steps: Vec<Step>| Ok(Plan { state, steps });
    match input {
        Input::Stop if runs(state) => Ok(pause(state, RunState::Paused)),
        Input::Stop => stay(Vec::new()),
        Input::Cont => match state {
            RunState::Running => stay(Vec::new()),
            RunState::InternalError | RunState::Shutdown => Err(Denied::ResetRequired),
            _ => Ok(Plan {
                state: RunState::Running,
                steps: vec![Step::Tell(Notice::Resume), Step::Run],
            }),
        },
        Input::SystemReset => Ok(reset(state, ShutdownCause::HostQmpSystemReset)),
        Input::SystemPowerdown => stay(vec![Step::PressPowerButton, Step::Tell(Notice::Powerdown)]),
        Input::Quit(cause) => Ok(end(state, cause, Ending::Clean)),
        Input::ResetFailed => Ok(broken(state, policy)),
        // Whatever a guest did before it was reset or ended is history. What it did in the instant
        // in which it was stopped still counts: it would wait for the consequence for ever.
        _ if !matches!(
            state,
            RunState::Running | RunState::Paused | RunState::IoError
        ) =>
        {
            stay(Vec::new())
        }
        // QEMU does not notice, and leaves such a guest "running" for ever.
        Input::GuestShutdown | Input::GuestHalted => {
            Ok(power_off(state, policy, ShutdownCause::GuestShutdown))
        }
        Input::GuestReset => Ok(match policy.reboot {
            RebootAction::Reset => reset(state, ShutdownCause::GuestReset),
            RebootAction::Shutdown => power_off(state, policy, ShutdownCause::GuestReset),
        }),
        Input::GuestPanicked => Ok(panicked(state, policy)),
        Input::GuestCrashLoaded => stay(vec![Step::Tell(Notice::GuestCrashLoaded)]),
        Input::GuestPvShutdown => {
            let mut plan = power_off(state, policy, ShutdownCause::GuestShutdown);
            plan.steps.insert(0, Step::Tell(Notice::GuestPvShutdown));
            Ok(plan)
        }
        Input::DiskStopped if runs(state) => Ok(pause(state, RunState::IoError)),
        Input::DiskStopped => stay(Vec::new()),
        Input::InternalError => Ok(broken(state, policy)),
    }
}

/// A guest that cannot run any further: kept as it is if a client could look at it.
fn broken(state: RunState, policy: &Policy) -> Plan {
    if policy.attended {
        return pause(state, RunState::InternalError);
    }
    Plan {
        state: RunState::InternalError,
        steps: vec![Step::Hold, Step::End(Ending::Crashed)],
    }
}

/// Stops a guest that runs; of one that is stopped only the state changes.
fn pause(from: RunState, to: RunState) -> Plan {
    let mut steps = Vec::new();
    if runs(from) {
        steps.extend([Step::Hold, Step::Tell(Notice::Stop)]);
    }
    Plan { state: to, steps }
}

fn reset(state: RunState, cause: ShutdownCause) -> Plan {
    let mut steps = vec![
        Step::Hold,
        Step::ResetMachine,
        Step::Tell(Notice::Reset(cause)),
    ];
    if runs(state) {
        steps.push(Step::Run);
        Plan { state, steps }
    } else {
        Plan {
            state: RunState::Prelaunch,
            steps,
        }
    }
}

fn power_off(state: RunState, policy: &Policy, cause: ShutdownCause) -> Plan {
    match policy.shutdown {
        ShutdownAction::Poweroff => end(state, cause, Ending::Clean),
        ShutdownAction::Pause => {
            let mut plan = pause(state, RunState::Shutdown);
            plan.steps.insert(0, Step::Tell(Notice::Shutdown(cause)));
            plan
        }
    }
}

fn end(state: RunState, cause: ShutdownCause, ending: Ending) -> Plan {
    Plan {
        state,
        steps: vec![
            Step::Hold,
            Step::Tell(Notice::Shutdown(cause)),
            Step::End(ending),
        ],
    }
}

fn panicked(state: RunState, policy: &Policy) -> Plan {
    let told = |action| Step::Tell(Notice::GuestPanicked(action));
    let pauses = policy.shutdown == ShutdownAction::Pause;
    match policy.panic {
        // Execution goes on where it was.
        PanicAction::None => Plan {
            state,
            steps: vec![told(GuestPanicAction::Run)],
        },
        PanicAction::Shutdown if pauses => paused_by_panic(state),
        PanicAction::Pause => paused_by_panic(state),
        // QEMU tells the two apart by exit status; ours says "crashed" for both.
        PanicAction::Shutdown | PanicAction::ExitFailure => {
            let mut plan = end(state, ShutdownCause::GuestPanic, Ending::Crashed);
            plan.steps.insert(0, told(GuestPanicAction::Poweroff));
            plan
        }
    }
}

fn paused_by_panic(from: RunState) -> Plan {
    let mut plan = pause(from, RunState::GuestPanicked);
    plan.steps.insert(
        0,
        Step::Tell(Notice::GuestPanicked(GuestPanicAction::Pause)),
    );
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEFAULTS: Policy = Policy {
        reboot: RebootAction::Reset,
        shutdown: ShutdownAction::Poweroff,
        panic: PanicAction::Shutdown,
        attended: true,
    };

    fn plan(state: RunState, input: Input) -> Plan {
        decide(state, &DEFAULTS, input).unwrap()
    }

    #[test]
    fn stop_and_cont_are_idempotent() {
        use RunState::{Paused, Prelaunch, Running};
        assert_eq!(
            plan(Running, Input::Stop),
            Plan {
                state: Paused,
                steps: vec![Step::Hold, Step::Tell(Notice::Stop)]
            }
        );
        for state in [Paused, Prelaunch] {
            assert_eq!(
                plan(state, Input::Stop),
                Plan {
                    state,
                    steps: vec![]
                }
            );
            let resumed = plan(state, Input::Cont);
            assert_eq!(resumed.state, Running);
            assert_eq!(resumed.steps, [Step::Tell(Notice::Resume), Step::Run]);
        }
        assert_eq!(
            plan(Running, Input::Cont),
            Plan {
                state: Running,
                steps: vec![]
            }
        );
    }

    #[test]
    fn a_dead_guest_must_be_reset_before_it_continues() {
        for state in [RunState::InternalError, RunState::Shutdown] {
            assert_eq!(
                decide(state, &DEFAULTS, Input::Cont),
                Err(Denied::ResetRequired)
            );
            let reset = plan(state, Input::SystemReset);
            assert_eq!(reset.state, RunState::Prelaunch);
            assert!(!reset.steps.contains(&Step::Run));
        }
        let running = plan(RunState::Running, Input::SystemReset);
        assert_eq!(running.state, RunState::Running);
        assert_eq!(running.steps.last(), Some(&Step::Run));
    }

    #[test]
    fn each_policy_leads_where_it_says() {
        let with = |policy, input| decide(RunState::Running, &policy, input).unwrap();
        let ends = |p: &Plan, e| p.steps.last() == Some(&Step::End(e));

        assert!(ends(&with(DEFAULTS, Input::GuestShutdown), Ending::Clean));
        let kept = Policy {
            shutdown: ShutdownAction::Pause,
            ..DEFAULTS
        };
        assert_eq!(with(kept, Input::GuestShutdown).state, RunState::Shutdown);
        assert!(ends(
            &with(kept, Input::Quit(ShutdownCause::HostQmpQuit)),
            Ending::Clean
        ));

        let once = Policy {
            reboot: RebootAction::Shutdown,
            ..DEFAULTS
        };
        let ended = with(once, Input::GuestReset);
        assert!(ends(&ended, Ending::Clean));
        assert!(
            ended
                .steps
                .contains(&Step::Tell(Notice::Shutdown(ShutdownCause::GuestReset)))
        );

        assert!(ends(&with(DEFAULTS, Input::GuestPanicked), Ending::Crashed));
        let ignore = Policy {
            panic: PanicAction::None,
            ..DEFAULTS
        };
        assert_eq!(with(ignore, Input::GuestPanicked).state, RunState::Running);
        let pause = Policy {
            panic: PanicAction::Pause,
            ..DEFAULTS
        };
        assert_eq!(
            with(pause, Input::GuestPanicked).state,
            RunState::GuestPanicked
        );
        assert_eq!(
            with(
                Policy {
                    shutdown: ShutdownAction::Pause,
                    ..DEFAULTS
                },
                Input::GuestPanicked
            )
            .state,
            RunState::GuestPanicked
        );

        assert_eq!(
            with(DEFAULTS, Input::InternalError).state,
            RunState::InternalError
        );
        let alone = Policy {
            attended: false,
            ..DEFAULTS
        };
        assert!(ends(&with(alone, Input::InternalError), Ending::Crashed));
        assert_eq!(with(DEFAULTS, Input::DiskStopped).state, RunState::IoError);
    }

    /// `stop` and the guest's own end cross: neither is lost, and STOP is told once.
    #[test]
    fn what_a_guest_did_as_it_was_stopped_still_counts() {
        for state in [RunState::Paused, RunState::IoError] {
            let off = plan(state, Input::GuestShutdown);
            assert_eq!(off.steps.last(), Some(&Step::End(Ending::Clean)));
            let reset = plan(state, Input::GuestReset);
            assert_eq!(reset.state, RunState::Prelaunch);
            assert!(reset.steps.contains(&Step::ResetMachine));
            assert!(!reset.steps.contains(&Step::Run));
            let kept = Policy {
                panic: PanicAction::Pause,
                ..DEFAULTS
            };
            let panicked = decide(state, &kept, Input::GuestPanicked).unwrap();
            assert_eq!(panicked.state, RunState::GuestPanicked);
            assert!(!panicked.steps.contains(&Step::Tell(Notice::Stop)));
            assert_eq!(plan(state, Input::DiskStopped).state, state);
        }
        for state in [RunState::Prelaunch, RunState::Shutdown] {
            let late = plan(state, Input::GuestShutdown);
            assert_eq!(
                late,
                Plan {
                    state,
                    steps: vec![]
                }
            );
        }
    }

    /// Whatever it was before: half of it is as at power-on, so it must not run.
    #[test]
    fn a_machine_whose_reset_failed_runs_only_after_another() {
        for state in [RunState::Running, RunState::Paused, RunState::Prelaunch] {
            let failed = plan(state, Input::ResetFailed);
            assert_eq!(failed.state, RunState::InternalError);
            let told = failed.steps.contains(&Step::Tell(Notice::Stop));
            assert_eq!(told, runs(state), "STOP is told of a guest that ran");
            let alone = Policy {
                attended: false,
                ..DEFAULTS
            };
            let alone = decide(state, &alone, Input::ResetFailed).unwrap();
            assert_eq!(alone.steps.last(), Some(&Step::End(Ending::Crashed)));
        }
    }

    fn any_state() -> impl Strategy<Value = RunState> {
        proptest::sample::select(vec![
            RunState::Prelaunch,
            RunState::Running,
            RunState::Paused,
            RunState::Shutdown,
            RunState::GuestPanicked,
            RunState::IoError,
            RunState::InternalError,
        ])
    }

    fn any_input() -> impl Strategy<Value = Input> {
        proptest::sample::select(vec![
            Input::Stop,
            Input::Cont,
            Input::SystemReset,
            Input::SystemPowerdown,
            Input::Quit(ShutdownCause::HostSignal),
            Input::GuestShutdown,
            Input::GuestHalted,
            Input::GuestReset,
            Input::GuestPanicked,
            Input::GuestCrashLoaded,
            Input::GuestPvShutdown,
            Input::DiskStopped,
            Input::InternalError,
            Input::ResetFailed,
        ])
    }

    fn any_policy() -> impl Strategy<Value = Policy> {
        use proptest::sample::select;
        (
            select(vec![RebootAction::Reset, RebootAction::Shutdown]),
            select(vec![ShutdownAction::Poweroff, ShutdownAction::Pause]),
            select(vec![
                PanicAction::Pause,
                PanicAction::Shutdown,
                PanicAction::ExitFailure,
                PanicAction::None,
            ]),
            any::<bool>(),
        )
            .prop_map(|(reboot, shutdown, panic, attended)| Policy {
                reboot,
                shutdown,
                panic,
                attended,
            })
    }

    proptest! {
        /// A model with one bit, "vCPUs are out", agrees with the state after any history; nothing
        /// is reset while it runs, and STOP and RESUME alternate.
        #[test]
        fn steps_and_states_agree(
            policy in any_policy(),
            start in any_state(),
            inputs in proptest::collection::vec(any_input(), 0..40),
        ) {
            let mut state = start;
            let mut out = runs(start);
            for input in inputs {
                let Ok(plan) = decide(state, &policy, input) else { continue };
                let mut told_running = runs(state);
                for step in &plan.steps {
                    match step {
                        Step::Hold => out = false,
                        Step::Run => out = true,
                        Step::ResetMachine => prop_assert!(!out),
                        Step::Tell(Notice::Stop) => {
                            prop_assert!(told_running && !out);
                            told_running = false;
                        }
                        Step::Tell(Notice::Resume) => {
                            prop_assert!(!told_running);
                            told_running = true;
                        }
                        Step::End(_) => prop_assert!(!out),
                        Step::PressPowerButton | Step::Tell(_) => {}
                    }
                }
                if plan.steps.iter().any(|s| matches!(s, Step::End(_))) {
                    break;
                }
                prop_assert_eq!(out, runs(plan.state));
                prop_assert_eq!(told_running, runs(plan.state));
                state = plan.state;
            }
        }
    }
}
