//! Filters of system calls: from rules to the program that the kernel runs (Linux's `seccomp_filter.rst`, `linux/filter.h`).
//!
//! The number of a call is found by halves and not one rule after the other. The kernel asks a new filter about every number
//! there is, once for each thread that it is installed for; that takes most of what a lock costs, and this keeps it short.

use super::SandboxError;
use libc::sock_filter;
use std::collections::BTreeMap;
use std::io;

/// What the low 32 bits of an argument must be: `value`, where the bits of `mask` are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    /// Which argument, 0 to 5.
    pub argument: u8,
    /// The bits that count.
    pub mask: u32,
    /// What they are.
    pub value: u32,
}

/// The calls that are allowed, by number: all of them, or those for which one of the conditions holds.
pub(super) type Rules = BTreeMap<libc::c_long, Vec<Condition>>;

/// `AUDIT_ARCH_X86_64` (linux/audit.h): the x86-64 system calls, those of the x32 ABI with a number of their own.
const ARCHITECTURE: u32 = 0xc000_003e;
/// Offsets in `struct seccomp_data`, and the size of an argument.
const NUMBER: u32 = 0;
const ARCHITECTURE_OFFSET: u32 = 4;
const ARGUMENTS: u32 = 16;
const ARGUMENT_SIZE: u32 = 8;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Where a comparison leads.
#[derive(Clone, Copy, Debug)]
enum To {
    /// So many steps on; 0 is the next one.
    On(usize),
    Allow,
    Deny,
}

/// A step whose targets are not yet places.
#[derive(Clone, Copy, Debug)]
struct Step {
    code: u16,
    k: u32,
    holds: To,
    fails: To,
}

impl Step {
    fn plain(code: u16, k: u32) -> Self {
        Self { code, k, holds: To::On(0), fails: To::On(0) }
    }
}

/// Makes the program: what is not allowed raises SIGSYS, and calls of another architecture end the process.
pub(super) fn compile(rules: &Rules) -> Result<Box<[sock_filter]>, SandboxError> {
    let numbered: Option<Vec<_>> = rules
        .iter()
        .map(|(number, conditions)| Some((u32::try_from(*number).ok()?, &conditions[..])))
        .collect();
    let mut steps = Vec::new();
    find(&numbered.ok_or(SandboxError::Rules)?, &mut steps);
    let instruction = |code, k, jt, jf| sock_filter { code, jt, jf, k };
    let mut program = vec![
        instruction(LOAD, ARCHITECTURE_OFFSET, 0, 0),
        instruction(EQUAL, ARCHITECTURE, 1, 0),
        instruction(RETURN, libc::SECCOMP_RET_KILL_PROCESS, 0, 0),
        instruction(LOAD, NUMBER, 0, 0),
    ];
    for (at, step) in steps.iter().enumerate() {
        let rest = steps.len() - at - 1;
        let place = |to| {
            let distance = match to {
                To::On(steps) => steps,
                To::Allow => rest + 1,
                To::Deny => rest,
            };
            u8::try_from(distance).map_err(|_| SandboxError::Rules)
        };
        let (jt, jf) = match step.code {
            EQUAL | AT_LEAST => (place(step.holds)?, place(step.fails)?),
            _ => (0, 0),
        };
        program.push(instruction(step.code, step.k, jt, jf));
    }
    program.push(instruction(RETURN, libc::SECCOMP_RET_TRAP, 0, 0));
    program.push(instruction(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0));
    Ok(program.into())
}

/// The steps that find one of these calls, in the order of their numbers, with the number at hand.
fn find(rules: &[(u32, &[Condition])], steps: &mut Vec<Step>) {
    match rules {
        [] => {}
        [(number, [])] => steps.push(Step { code: EQUAL, k: *number, holds: To::Allow, fails: To::Deny }),
        [(number, conditions)] => {
            steps.push(Step { code: EQUAL, k: *number, holds: To::On(0), fails: To::Deny });
            for (at, Condition { argument, mask, value }) in conditions.iter().enumerate() {
                let last = at + 1 == conditions.len();
                steps.push(Step::plain(LOAD, ARGUMENTS + u32::from(*argument) * ARGUMENT_SIZE));
                if *mask != u32::MAX {
                    steps.push(Step::plain(AND, *mask));
                }
                let fails = if last { To::Deny } else { To::On(0) };
                steps.push(Step { code: EQUAL, k: *value, holds: To::Allow, fails });
            }
        }
        _ => {
            let (low, high) = rules.split_at(rules.len() / 2);
            let fork = steps.len();
            steps.push(Step { code: AT_LEAST, k: high[0].0, holds: To::On(0), fails: To::On(0) });
            find(low, steps);
            steps[fork].holds = To::On(steps.len() - fork - 1);
            find(high, steps);
        }
    }
}

/// Installs a program for the calling thread, for good, which can gain no privileges any more either.
pub(super) fn install(program: &[sock_filter]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: the first call takes numbers; the second one reads as many instructions as said.
    let installed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &program) == 0
    };
    if installed { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the kernel makes of a call: the program's answer, and how many steps that took.
    fn answer(program: &[sock_filter], architecture: u32, number: u32, arguments: [u64; 6]) -> (u32, usize) {
        let mut data: Vec<u8> = [number.to_le_bytes(), architecture.to_le_bytes(), [0; 4], [0; 4]].concat();
        data.extend(arguments.iter().flat_map(|argument| argument.to_le_bytes()));
        let (mut accumulator, mut at) = (0u32, 0);
        for steps in 1.. {
            let sock_filter { code, jt, jf, k } = program[at];
            let mut jump = |holds: bool| at += usize::from(if holds { jt } else { jf });
            match code {
                RETURN => return (k, steps),
                LOAD => {
                    accumulator = u32::from_le_bytes(data[k as usize..k as usize + 4].try_into().unwrap());
                }
                AND => accumulator &= k,
                EQUAL => jump(accumulator == k),
                AT_LEAST => jump(accumulator >= k),
                other => panic!("{other}"),
            }
            at += 1;
        }
        unreachable!()
    }

    fn wanted(rules: &Rules, number: u32, arguments: [u64; 6]) -> u32 {
        let holds = |condition: &Condition| {
            arguments[usize::from(condition.argument)] as u32 & condition.mask == condition.value
        };
        match rules.get(&libc::c_long::from(number)) {
            Some(conditions) if conditions.is_empty() || conditions.iter().any(holds) => {
                libc::SECCOMP_RET_ALLOW
            }
            _ => libc::SECCOMP_RET_TRAP,
        }
    }

    fn conditions() -> impl Strategy<Value = Vec<Condition>> {
        let mask = prop_oneof![Just(u32::MAX), Just(4)];
        let condition = (0u8..6, mask, 0u32..6).prop_map(|(argument, mask, value)| Condition {
            argument,
            mask,
            value: value & mask,
        });
        prop::collection::vec(condition, 0..6)
    }

    proptest! {
        #[test]
        fn allows_what_the_rules_say_and_nothing_else(
            rules in prop::collection::btree_map(0 as libc::c_long..480, conditions(), 0..60),
            arguments in prop::array::uniform6(prop_oneof![0u64..6, Just(1u64 << 32 | 4), any::<u64>()]),
        ) {
            let Ok(program) = compile(&rules) else { return Ok(()) };
            for number in (0..500).chain([1 << 30, 1 << 30 | 1, u32::MAX]) {
                let (found, _) = answer(&program, ARCHITECTURE, number, arguments);
                prop_assert_eq!(found, wanted(&rules, number, arguments), "call {}", number);
            }
            // 32-bit programs have other numbers.
            let (found, _) = answer(&program, 0x4000_0003, 0, arguments);
            prop_assert_eq!(found, libc::SECCOMP_RET_KILL_PROCESS);
        }
    }

    #[test]
    fn a_call_is_found_in_few_steps() {
        let rules: Rules = (0..64).map(|number| (number * 5, Vec::new())).collect();
        let program = compile(&rules).unwrap();
        let most = (0..500).map(|number| answer(&program, ARCHITECTURE, number, [0; 6]).1).max();
        // Architecture and number are looked at, 64 calls halved six times, the last one compared, and told.
        assert_eq!(most, Some(3 + 6 + 1 + 1));
    }

    #[test]
    fn more_rules_than_a_program_can_hold_are_refused() {
        let rules: Rules = (0..400).map(|number| (number, Vec::new())).collect();
        assert!(compile(&rules).is_err());
        assert!(compile(&Rules::from([(-1, Vec::new())])).is_err());
    }
}
