// SPDX-License-Identifier: GPL-2.0

//! The rules for TSC_ADJUST: every input there is, against the text of the rules, and against the
//! tables of the documentation.
#![cfg(not(loom))]

use paraclock_unit::logic::tsc_adjust::{
    Check, Decision, FIRST_MS, Found, HostsWord, Input, MAX_RUNS, Message, Outcome, Place, Reason,
    Reference, ReliableOption, Rule, SIBLING_MS, Standing, Step, Verdict, decide, is_reliable,
    verify,
};
use std::collections::HashSet;

const BOOLS: [bool; 2] = [false, true];
const VALUES: [i64; 5] = [0, 7, -10_000, i64::MIN, i64::MAX];
const OUTCOMES: [Outcome; 10] = [
    Outcome::Passed,
    Outcome::Warped { correction: 10_000 },
    Outcome::Warped {
        correction: -10_000,
    },
    Outcome::Warped {
        correction: i64::MAX,
    },
    Outcome::Warped {
        correction: i64::MIN,
    },
    Outcome::WarpedRandomly { warp: 1 },
    Outcome::WarpedRandomly { warp: u64::MAX },
    Outcome::Unseen,
    Outcome::StandsStill,
    Outcome::Absent,
];

fn places() -> Vec<Place> {
    let mut places = vec![Place::Boot, Place::FirstOnSocket];
    for boot_value in VALUES {
        for set_to in VALUES {
            for in_step in BOOLS {
                places.push(Place::Sibling(Reference {
                    boot_value,
                    set_to,
                    in_step,
                }));
            }
        }
    }
    places
}

fn steps() -> Vec<Step> {
    let mut steps = vec![Step::Starting];
    for run in [0, 1, 2, 3, 4, u8::MAX] {
        for set_to in VALUES {
            for outcome in OUTCOMES {
                steps.push(Step::Checked {
                    run,
                    set_to,
                    outcome,
                });
            }
        }
    }
    steps
}

fn inputs() -> Vec<Input> {
    let mut inputs = Vec::new();
    let values = VALUES.map(Some).into_iter().chain([None]);
    for boot_value in values {
        for place in places() {
            for bits in 0..8 {
                for step in steps() {
                    inputs.push(Input {
                        boot_value,
                        place,
                        async_resets: bits & 1 != 0,
                        reliable: bits & 2 != 0,
                        withdrawn: bits & 4 != 0,
                        step,
                    });
                }
            }
        }
    }
    inputs
}

/// Goes through every input and checks what `wanted` says of it.
fn for_all(rule: &str, wanted: impl Fn(&Input, &Decision) -> bool) {
    let inputs = inputs();
    assert!(inputs.len() > 100_000);
    for input in inputs {
        let decision = decide(&input);
        assert!(wanted(&input, &decision), "{rule}: {input:?}: {decision:?}");
    }
}

fn is_sibling(input: &Input) -> bool {
    matches!(input.place, Place::Sibling(_))
}

/// "It writes IA32_TSC_ADJUST only where CPUID advertises it, and then only" in three cases.
#[test]
fn only_where_advertised() {
    for_all("only where advertised", |input, decision| {
        let none = input.boot_value.is_none();
        let unwritten = decision.write.is_none() && decision.set_to.is_none();
        let writers = [
            Rule::BootCpuToZero,
            Rule::SiblingToSocket,
            Rule::SocketIntoStep,
        ];
        let by = writers
            .iter()
            .filter(|rule| decision.rules.contains(**rule));
        // Each write is one rule's, and where there is none, none of them has applied.
        (!none || unwritten)
            && decision.rules.contains(Rule::OnlyWhereAdvertised) == none
            && by.count() == usize::from(decision.write.is_some())
            // One run where there is no register: no run is followed by another.
            && !(none && input.step != Step::Starting && decision.check != Check::Skip)
    });
}

/// "On the boot CPU, if it is not zero: set to 0 (not where sockets are reset asynchronously)."
#[test]
fn boot_cpu_to_zero() {
    for_all("boot CPU to zero", |input, decision| {
        let wanted = input.place == Place::Boot
            && input.step == Step::Starting
            && !input.async_resets
            && input.boot_value.is_some_and(|value| value != 0);
        let applied = decision.rules.contains(Rule::BootCpuToZero);
        let boot_writes = input.place == Place::Boot && decision.write.is_some();
        let message = input.boot_value.map(|found| {
            if input.async_resets {
                Message::BootCpuLeft { found }
            } else {
                Message::BootCpuSet { found }
            }
        });
        let logged = input.place != Place::Boot
            || input.step != Step::Starting
            || decision.log == message.filter(|_| input.boot_value != Some(0));
        applied == wanted
            && boot_writes == wanted
            && (!wanted || decision.write == Some(0))
            && logged
            && !(input.place == Place::Boot
                && input.step == Step::Starting
                && decision.check != Check::Skip)
    });
}

/// "On a starting CPU that differs from the first CPU that came up on the same socket: set to that
/// value."
#[test]
fn sibling_to_socket() {
    for_all("sibling to socket", |input, decision| {
        let Place::Sibling(reference) = input.place else {
            return !decision.rules.contains(Rule::SiblingToSocket);
        };
        if input.step != Step::Starting {
            return !decision.rules.contains(Rule::SiblingToSocket);
        }
        let Some(found) = input.boot_value else {
            return decision.write.is_none();
        };
        let differs = found != reference.set_to;
        // One that comes back has what the socket was set to, and is no news.
        let is_news = found != reference.boot_value && found != reference.set_to;
        let logged = is_news.then_some(Message::DiffersOnSocket {
            found,
            socket: reference.boot_value,
        });
        decision.write == differs.then_some(reference.set_to)
            && decision.rules.contains(Rule::SiblingToSocket) == differs
            // In step by that, or out of step with it.
            && decision.set_to == Some(reference.set_to)
            && decision.check == Check::Skip
            && decision.log == logged
    });
}

/// "On the first CPU of another socket, if the synchronisation check fails: moved, in at most 3
/// runs, to where the check no longer fails."
#[test]
fn socket_into_step() {
    for_all("socket into step", |input, decision| {
        let applied = decision.rules.contains(Rule::SocketIntoStep);
        let Step::Checked {
            run,
            set_to,
            outcome,
        } = input.step
        else {
            return !applied;
        };
        let wanted = match outcome {
            Outcome::Warped { correction }
                if input.place == Place::FirstOnSocket && input.boot_value.is_some() && run < 3 =>
            {
                // Modulo 2^64.
                Some((i128::from(set_to) + i128::from(correction)) as i64)
            }
            _ => None,
        };
        let retried = decision.check != Check::Skip;
        let may_retry = input.place == Place::FirstOnSocket
            && input.boot_value.is_some()
            && run < MAX_RUNS
            && matches!(outcome, Outcome::Warped { .. } | Outcome::Unseen);
        decision.write == wanted
            && applied == wanted.is_some()
            && retried == may_retry
            && (!retried || decision.check == Check::Run(FIRST_MS))
            && decision.set_to == input.boot_value.map(|_| wanted.unwrap_or(set_to))
    });
}

/// "X86_FEATURE_TSC_RELIABLE skips the synchronisation check; it does not skip the sanitising."
#[test]
fn reliable_is_not_checked() {
    for_all("reliable is not checked", |input, decision| {
        let applied = decision.rules.contains(Rule::ReliableIsNotChecked);
        let twin = |reliable| decide(&Input { reliable, ..*input });
        let (with, without) = (twin(true), twin(false));
        let sanitised_alike =
            with.write == without.write && with.set_to == without.set_to && with.log == without.log;
        if input.step != Step::Starting {
            return sanitised_alike && with == without && !applied;
        }
        let ms = match (input.place, input.boot_value) {
            (Place::Boot, _) | (Place::Sibling(_), Some(_)) => Check::Skip,
            (Place::FirstOnSocket, _) => Check::Run(20),
            (Place::Sibling(_), None) => Check::Run(2),
        };
        sanitised_alike
            && with.check == Check::Skip
            && without.check == ms
            && applied == (input.reliable && ms != Check::Skip)
            && (input.withdrawn || with.verdict == Verdict::Allowed)
    });
}

/// "Where it falls apart, the host says so: leaves `tsc` mode, and comes back when the ground for
/// it is back."
#[test]
fn hosts_word() {
    for_all("host's word", |input, decision| {
        let twin = decide(&Input {
            withdrawn: false,
            ..*input
        });
        let applied = decision.rules.contains(Rule::HostsWord);
        let same = Decision {
            verdict: twin.verdict,
            rules: twin.rules,
            ..*decision
        } == twin;
        let rest = Rule::ALL.iter().all(|rule| {
            *rule == Rule::HostsWord || decision.rules.contains(*rule) == twin.rules.contains(*rule)
        });
        applied == input.withdrawn
            && same
            && rest
            && (decision.verdict == Verdict::Denied(Reason::Withdrawn)) == input.withdrawn
            && (input.withdrawn || decision.verdict == twin.verdict)
    });
}

/// What remains: the verdict, and what is logged of a check.
#[test]
fn verdicts() {
    for_all("verdict", |input, decision| {
        if input.withdrawn {
            return true;
        }
        let pending = decision.verdict == Verdict::Pending;
        if pending != (decision.check != Check::Skip) {
            return false;
        }
        let wanted = match (input.step, input.place) {
            _ if pending => return true,
            (Step::Starting, Place::Sibling(reference))
                if !reference.in_step && !input.reliable && input.boot_value.is_some() =>
            {
                Verdict::Denied(Reason::SocketOutOfStep)
            }
            (Step::Starting, _) => Verdict::Allowed,
            (Step::Checked { outcome, .. }, _) => match outcome {
                Outcome::Passed => Verdict::Allowed,
                Outcome::Warped { .. } => Verdict::Denied(Reason::Warped),
                Outcome::WarpedRandomly { .. } => Verdict::Denied(Reason::WarpedRandomly),
                Outcome::StandsStill => Verdict::Denied(Reason::StandsStill),
                Outcome::Unseen | Outcome::Absent => Verdict::Denied(Reason::NotChecked),
            },
        };
        let logged = match (input.step, decision.log) {
            (Step::Starting, log) => !matches!(log, Some(Message::Failed(_))),
            (Step::Checked { outcome, .. }, log) => {
                log == (outcome != Outcome::Passed).then_some(Message::Failed(outcome))
            }
        };
        decision.verdict == wanted && logged
    });
}

/// A CPU is asked about to the end, with whatever the check finds: it ends, and within 3 runs.
#[test]
fn it_ends_within_three_runs() {
    fn go_on(input: Input, depth: u8) {
        let decision = decide(&input);
        if decision.check == Check::Skip {
            assert!(decision.verdict != Verdict::Pending);
            return;
        }
        assert!(depth < 3, "{input:?}: a fourth run");
        for outcome in OUTCOMES {
            let step = Step::Checked {
                run: depth + 1,
                set_to: decision.set_to.unwrap_or(0),
                outcome,
            };
            go_on(Input { step, ..input }, depth + 1);
        }
    }
    for input in inputs() {
        if input.step == Step::Starting {
            go_on(input, 0);
        }
    }
}

#[test]
fn every_rule_applies_somewhere_and_has_a_name() {
    let applied: HashSet<&str> = inputs()
        .iter()
        .flat_map(|input| {
            decide(input)
                .rules
                .iter()
                .map(Rule::name)
                .collect::<Vec<_>>()
        })
        .collect();
    let all: HashSet<&str> = Rule::ALL.iter().map(|rule| rule.name()).collect();
    assert_eq!(all.len(), 6);
    assert_eq!(applied, all);
}

#[test]
fn reliable() {
    use HostsWord::{Given, None, Withdrawn};
    use ReliableOption::{Always, Auto, Never};
    for host in [None, Given, Withdrawn] {
        for feature in BOOLS {
            assert!(is_reliable(Always, feature, host));
            assert!(!is_reliable(Never, feature, host));
        }
    }
    for feature in BOOLS {
        assert!(is_reliable(Auto, feature, Given));
        assert!(!is_reliable(Auto, feature, Withdrawn));
        assert_eq!(is_reliable(Auto, feature, None), feature);
    }
}

fn all_found() -> Vec<Found> {
    let values = || VALUES.map(Some).into_iter().chain([None]);
    let mut all = Vec::new();
    for value in values() {
        for set_to in VALUES {
            for overwritten in values() {
                for bits in 0..8 {
                    all.push(Found {
                        value,
                        set_to,
                        warned: bits & 1 != 0,
                        resume: bits & 2 != 0,
                        overwritten,
                        kernel_verifies: bits & 4 != 0,
                    });
                }
            }
        }
    }
    all
}

/// `tsc_verify_tsc_adjust()`: restored, logged the first time and after a resume; but where the
/// kernel insists on another value that one is taken.
#[test]
fn what_was_changed_is_restored() {
    for found in all_found() {
        let restore = verify(&found);
        let changed = !(found.value.is_none() || found.value == Some(found.set_to));
        let insisted = changed && found.kernel_verifies && found.value == found.overwritten;
        let case = format!("{found:?}: {restore:?}");
        let write = (changed && !insisted).then_some(found.set_to);
        assert_eq!(restore.write, write, "{case}");
        assert_eq!(
            restore.log,
            changed && (found.resume || !found.warned),
            "{case}"
        );
        assert_eq!(restore.warned, found.warned || changed, "{case}");
        let overwritten = found.value.filter(|_| write.is_some());
        assert_eq!(restore.overwritten, overwritten, "{case}");
        let set_to = found.value.filter(|_| insisted).unwrap_or(found.set_to);
        assert_eq!(restore.set_to, set_to, "{case}");
    }
}

/// Two looks at a register that the kernel has another record of end the quarrel, by its record;
/// one change by somebody else, even the same one each hour, does not.
#[test]
fn the_kernels_record_is_not_fought() {
    let look = |value, set_to, overwritten| {
        verify(&Found {
            value: Some(value),
            set_to,
            warned: true,
            resume: false,
            overwritten,
            kernel_verifies: true,
        })
    };
    let first = look(7, 0, None);
    assert_eq!(first.write, Some(0));
    // The kernel has written its 7 again.
    let second = look(7, first.set_to, first.overwritten);
    assert_eq!((second.write, second.set_to), (None, 7));
    let third = look(7, second.set_to, second.overwritten);
    assert_eq!((third.write, third.set_to), (None, 7));

    let held = look(0, first.set_to, first.overwritten);
    assert_eq!((held.write, held.overwritten), (None, None));
    assert_eq!(look(7, held.set_to, held.overwritten).write, Some(0));
}

/// What is kept of a decision means the same as the decision, for as long as the TSC is as reliable
/// as it was, and asks for the check where it no longer is.
#[test]
fn what_is_kept_of_a_verdict() {
    for input in inputs().into_iter().filter(|input| !input.withdrawn) {
        let decision = decide(&input);
        let standing = Standing::of(&input, &decision);
        let case = format!("{input:?}: {decision:?}: {standing:?}");
        assert_eq!(
            Standing::from_number(standing.to_number()),
            standing,
            "{case}"
        );
        let by_socket = is_sibling(&input) && input.boot_value.is_some();
        if input.step == Step::Starting && by_socket {
            assert_eq!(standing, Standing::Socket, "{case}");
            continue;
        }
        assert_eq!(
            standing.verdict(false) == Verdict::Allowed,
            standing == Standing::InStep
        );
        let skipped = decision.rules.contains(Rule::ReliableIsNotChecked);
        assert_eq!(standing == Standing::Skipped, skipped, "{case}");
        if skipped {
            assert!(input.reliable, "{case}");
            assert_eq!(standing.verdict(true), Verdict::Allowed, "{case}");
            assert_eq!(standing.verdict(false), Verdict::Pending, "{case}");
            assert!(standing.is_open(false) && !standing.is_open(true), "{case}");
        } else if !(input.reliable && decision.verdict == Verdict::Pending) {
            assert_eq!(standing.verdict(input.reliable), decision.verdict, "{case}");
        }
    }
}

#[test]
fn standings_have_numbers_and_names() {
    let reasons = [
        Reason::Warped,
        Reason::WarpedRandomly,
        Reason::StandsStill,
        Reason::NotChecked,
        Reason::SocketOutOfStep,
    ];
    let all: Vec<Standing> = [
        Standing::Socket,
        Standing::InStep,
        Standing::Skipped,
        Standing::Pending,
    ]
    .into_iter()
    .chain(reasons.map(Standing::Denied))
    .collect();
    let numbers: HashSet<u64> = all.iter().map(|standing| standing.to_number()).collect();
    let names: HashSet<&str> = all.iter().map(|standing| standing.name()).collect();
    assert_eq!((numbers.len(), names.len()), (all.len(), all.len()));
    for standing in all {
        assert_eq!(Standing::from_number(standing.to_number()), standing);
        let comes_to_nothing = matches!(
            standing,
            Standing::Denied(Reason::NotChecked) | Standing::Pending | Standing::Skipped
        );
        assert_eq!(standing.is_open(false), comes_to_nothing);
    }
    // What is to be checked need not be any more once the TSC is reliable.
    for standing in [Standing::Pending, Standing::Skipped] {
        assert_eq!(standing.verdict(true), Verdict::Allowed);
        assert_eq!(standing.verdict(false), Verdict::Pending);
    }
    // A number of nobody's is to be checked, whatever it was.
    for number in [9, 10, u64::MAX] {
        assert_eq!(Standing::from_number(number), Standing::Pending);
    }
    let withdrawn = Standing::Denied(Reason::Withdrawn);
    assert_eq!(
        Standing::from_number(withdrawn.to_number()),
        Standing::Pending
    );
}

#[test]
fn messages() {
    let texts = [
        (
            Message::BootCpuSet { found: 7 },
            "boot-cpu-set",
            "TSC_ADJUST was 7 on the boot CPU, set to 0",
        ),
        (
            Message::BootCpuLeft { found: 7 },
            "boot-cpu-left",
            "TSC_ADJUST is 7 on the boot CPU and stays: sockets are reset asynchronously",
        ),
        (
            Message::DiffersOnSocket {
                found: 7,
                socket: 0,
            },
            "differs-on-socket",
            "TSC_ADJUST 7 differs from 0 on the same socket, all are set alike",
        ),
        (
            Message::Moved { by: -9900, to: 100 },
            "moved",
            "TSC out of step, TSC_ADJUST moved by -9900 to 100",
        ),
        (
            // A correction of +10,000 is a TSC that is 10,000 behind.
            Message::Failed(Outcome::Warped { correction: 10_000 }),
            "failed",
            "TSC out of step by -10000 cycles; no mode tsc until the CPU is started anew or \
             tsc_reliable= is written, and it passes",
        ),
        (
            Message::Failed(Outcome::WarpedRandomly { warp: 5 }),
            "failed",
            "TSC warps randomly, by up to 5 cycles; no mode tsc until the CPU is started anew or \
             tsc_reliable= is written, and it passes",
        ),
        (
            Message::Failed(Outcome::StandsStill),
            "failed",
            "TSC stands still; no mode tsc until the CPU is started anew or tsc_reliable= is \
             written, and it passes",
        ),
        (
            Message::Failed(Outcome::Unseen),
            "failed",
            "TSC not compared, the two CPUs hardly ran at once; no mode tsc until they do",
        ),
        (
            Message::Failed(Outcome::Absent),
            "failed",
            "TSC not compared, a CPU did not come; no mode tsc until it does",
        ),
        (
            Message::FellApart { by: -5 },
            "fell-apart",
            "TSC out of step by -5 cycles or more, and was not; no mode tsc until the CPU is \
             started anew or tsc_reliable= is written, and it passes",
        ),
    ];
    for (message, name, text) in texts {
        assert_eq!(message.name(), name);
        assert_eq!(message.to_string(), text);
        assert_eq!(message.once(), name == "differs-on-socket");
    }
    let lowest = Message::Failed(Outcome::Warped {
        correction: i64::MIN,
    });
    assert!(lowest.to_string().contains("by 9223372036854775808 cycles"));
}

const PAGE: &str = include_str!("../../../Documentation/tsc-adjust.rst");

/// The rows of the simple table behind the given comment, without its head, as cells. The last
/// column may go on beyond its mark.
fn table(mark: &str) -> Vec<Vec<&'static str>> {
    let mut lines = PAGE.lines().skip_while(|line| *line != mark).skip(2);
    let border = lines.next().expect("a table follows the mark");
    assert!(border.starts_with("==="), "{mark}: {border}");
    let mut columns: Vec<usize> = vec![0];
    columns.extend(border.match_indices("  =").map(|(at, _)| at + 2));
    lines
        .skip(2)
        .take_while(|line| *line != border)
        .map(|line| {
            (0..columns.len())
                .map(|i| {
                    let end = columns.get(i + 1).map_or(line.len(), |end| *end);
                    line[columns[i]..end.min(line.len())].trim()
                })
                .collect()
        })
        .collect()
}

fn says(cell: &str, yes: &str, no: &str, is: bool) -> bool {
    match cell {
        "--" => true,
        cell if cell == yes => is,
        cell if cell == no => !is,
        cell => panic!("a cell says {cell:?}, not {yes:?}, {no:?} or a dash"),
    }
}

fn is_cpu(cell: &str, place: Place) -> bool {
    let name = match place {
        Place::Boot => "boot",
        Place::FirstOnSocket => "first",
        Place::Sibling(_) => "sibling",
    };
    cell == "--" || cell.split(", ").any(|cpu| cpu == name)
}

/// Whether the last three columns, check, verdict and rule, are what was decided.
fn is_result(check: &str, verdict: &str, rules: &str, decision: &Decision) -> bool {
    let decided = match decision.check {
        Check::Skip => "--".to_owned(),
        Check::Run(ms) => format!("{ms} ms"),
    };
    let judged = match decision.verdict {
        Verdict::Allowed => "allowed",
        Verdict::Pending => "pending",
        Verdict::Denied(_) => "denied",
    };
    let names: Vec<&str> = decision.rules.iter().map(Rule::name).collect();
    let applied = if names.is_empty() {
        "--".to_owned()
    } else {
        names.join(", ")
    };
    check == decided && verdict == judged && rules == applied
}

/// Exactly one row of the table matches each input, each row is matched, and it says what the code
/// decides.
fn compare(
    mark: &str,
    is_at: impl Fn(&Input) -> bool,
    matches: impl Fn(&[&str], &Input) -> bool,
    agrees: impl Fn(&[&str], &Input, &Decision) -> bool,
) {
    let rows = table(mark);
    let mut used = vec![false; rows.len()];
    for input in inputs().iter().filter(|i| is_at(i) && !i.withdrawn) {
        let found: Vec<usize> = (0..rows.len())
            .filter(|row| matches(&rows[*row], input))
            .collect();
        let [row] = found[..] else {
            panic!("{mark}: {} rows match {input:?}", found.len());
        };
        used[row] = true;
        let decision = decide(input);
        assert!(
            agrees(&rows[row], input, &decision),
            "{mark}: {:?}\n{input:?}\n{decision:?}",
            rows[row]
        );
    }
    for (row, used) in rows.iter().zip(used) {
        assert!(used, "{mark}: nothing is like {row:?}");
    }
}

#[test]
fn the_table_of_starting_cpus() {
    compare(
        ".. table-starting",
        |input| input.step == Step::Starting,
        |row, input| {
            let (in_step, set_to) = match input.place {
                Place::Sibling(reference) => (reference.in_step, Some(reference.set_to)),
                _ => (false, None),
            };
            let value = input.boot_value;
            let has_value = match row[0] {
                "none" => value.is_none(),
                "any" => value.is_some(),
                "0" => value == Some(0),
                "not 0" => value.is_some_and(|value| value != 0),
                "socket's" => value.is_some() && value == set_to,
                "another" => value.is_some() && value != set_to,
                cell => panic!("a TSC_ADJUST of {cell:?}"),
            };
            has_value
                && is_cpu(row[1], input.place)
                && says(row[2], "yes", "no", input.async_resets)
                && says(row[3], "yes", "no", input.reliable)
                && (row[4] == "--" || is_sibling(input))
                && says(row[4], "in step", "out of step", in_step)
        },
        |row, input, decision| {
            let written = match (row[5], input.place) {
                ("--", _) => None,
                ("0", _) => Some(0),
                ("socket's", Place::Sibling(reference)) => Some(reference.set_to),
                (cell, _) => panic!("writes {cell:?}"),
            };
            decision.write == written && is_result(row[6], row[7], row[8], decision)
        },
    );
}

#[test]
fn the_table_of_checked_cpus() {
    let checked = |input: &Input| match input.step {
        // The runs that there are.
        Step::Checked {
            run,
            set_to,
            outcome,
        } if (1..=3).contains(&run) => Some((run, set_to, outcome)),
        _ => None,
    };
    compare(
        ".. table-checked",
        |input| checked(input).is_some(),
        |row, input| {
            let (run, _, outcome) = checked(input).expect("selected above");
            let name = match outcome {
                Outcome::Passed => "passed",
                Outcome::Warped { .. } => "warped",
                Outcome::WarpedRandomly { .. } => "randomly",
                Outcome::Unseen => "unseen",
                Outcome::StandsStill => "stands still",
                Outcome::Absent => "absent",
            };
            row[0] == name
                && is_cpu(row[1], input.place)
                && says(row[2], "any", "none", input.boot_value.is_some())
                && says(row[3], "1 or 2", "3", run < 3)
        },
        |row, input, decision| {
            let (_, set_to, outcome) = checked(input).expect("selected above");
            let written = match (row[4], outcome) {
                ("--", _) => None,
                ("moved", Outcome::Warped { correction }) => Some(set_to.wrapping_add(correction)),
                (cell, _) => panic!("writes {cell:?}"),
            };
            decision.write == written && is_result(row[5], row[6], row[7], decision)
        },
    );
}

/// The page names every rule, once, in its table, and the figures that the code goes by.
#[test]
fn the_page_names_the_rules_and_figures() {
    for rule in Rule::ALL {
        let rows = PAGE
            .lines()
            .filter(|line| line.split("  ").next() == Some(rule.name()));
        assert_eq!(rows.count(), 1, "{}", rule.name());
    }
    for figure in [
        format!("{FIRST_MS} ms for the first CPU of a socket and {SIBLING_MS} ms for others"),
        format!("at most {MAX_RUNS} runs"),
        "once a second, one CPU after the other".to_owned(),
    ] {
        assert!(PAGE.contains(&figure), "{figure}");
    }
    assert_eq!(paraclock_unit::logic::tsc_adjust::VERIFY_PERIOD_S, 1);
}
