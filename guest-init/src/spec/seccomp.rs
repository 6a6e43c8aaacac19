//! System call filters: the specification's, and the one that every container has.

use linux_raw_sys::errno::{EAFNOSUPPORT, ENOSYS, EPERM};
use linux_raw_sys::net::AF_VSOCK;
use linux_raw_sys::ptrace as p;
use syscalls::Sysno;

use super::bpf::{Comparison, LIMIT, Program};
use super::syscall_name::number;
use crate::api::oci::{LinuxSeccomp, LinuxSeccompArg, LinuxSyscall, Spec};
use crate::prelude::*;
use crate::sys::process::Instruction;

/// `true`: the container may use vsock, and so reach whatever of the host listens there.
pub const VSOCK_ANNOTATION: &str = "io.ferry.vsock";

/// A filter and the flags to install it with.
#[derive(Debug, PartialEq, Eq)]
pub struct Filter {
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
    /// The program.
    pub program: Vec<Instruction>,
}

const fn errno(number: u32) -> u32 {
    p::SECCOMP_RET_ERRNO | number
}

/// What keeps a container from vsock, on which the host speaks to PID 1: no socket of that family, and no io_uring,
/// whose sockets no filter sees. (Docker's own filter has none of both either.) `None` when the annotation allows it.
pub fn bar(spec: &Spec) -> Option<Filter> {
    if spec.annotations.get(VSOCK_ANNOTATION).is_some_and(|value| value == "true") {
        return None;
    }
    let mut program = Program::new(errno(ENOSYS));
    // The family is an int: its upper half is nothing.
    let is_vsock = Comparison::Masked(u32::MAX.into(), AF_VSOCK.into());
    program.rule(Sysno::socket as u32, &[(0, is_vsock)], errno(EAFNOSUPPORT));
    program.rule(Sysno::io_uring_setup as u32, &[], errno(EPERM));
    Some(Filter { flags: 0, program: program.finish(p::SECCOMP_RET_ALLOW) })
}

/// The specification's filter. The first rule that names a call and whose conditions hold decides.
pub fn filter(seccomp: &LinuxSeccomp) -> Result<Filter> {
    let is_ours = |name: &String| name == "SCMP_ARCH_X86_64";
    let is_for_others = !seccomp.architectures.is_empty() && !seccomp.architectures.iter().any(is_ours);
    refuse_if!(is_for_others, InvalidArgument, "seccomp: SCMP_ARCH_X86_64 is not among the architectures");
    let mut flags = 0;
    for flag in &seccomp.flags {
        flags |= match flag.as_str() {
            // There is one thread yet.
            "SECCOMP_FILTER_FLAG_TSYNC" => 0,
            "SECCOMP_FILTER_FLAG_LOG" => p::SECCOMP_FILTER_FLAG_LOG,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => p::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            other => return Err(fault!(InvalidArgument, "seccomp: no flag {other}")),
        };
    }
    let mut program = Program::new(errno(ENOSYS));
    for rule in &seccomp.syscalls {
        add(&mut program, rule)?;
    }
    let program = program.finish(action(&seccomp.default_action, None)?);
    refuse_if!(program.len() > LIMIT, InvalidArgument, "seccomp: the rules are more than the kernel takes");
    Ok(Filter { flags, program })
}

fn add(program: &mut Program, rule: &LinuxSyscall) -> Result {
    let action = action(&rule.action, rule.errno_ret)?;
    let mut conditions = Vec::new();
    for arg in &rule.args {
        conditions.push(condition(arg)?);
    }
    let repeats = |at: usize| conditions[..at].iter().any(|(argument, _)| *argument == conditions[at].0);
    // Two conditions on one argument are alternatives, as runc has it.
    let alternatives: Vec<&[_]> = if (0..conditions.len()).any(repeats) {
        conditions.chunks(1).collect()
    } else {
        Vec::from([&conditions[..]])
    };
    // What the guest's kernel does not have cannot be called.
    for number in rule.names.iter().filter_map(number) {
        for conditions in &alternatives {
            program.rule(number, conditions, action);
        }
    }
    Ok(())
}

fn action(name: &str, data: Option<u32>) -> Result<u32> {
    let data = data.unwrap_or(EPERM);
    refuse_if!(data > p::SECCOMP_RET_DATA, InvalidArgument, "seccomp: {data} is no error number");
    Ok(match name {
        "SCMP_ACT_ALLOW" => p::SECCOMP_RET_ALLOW,
        "SCMP_ACT_ERRNO" => errno(data),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => p::SECCOMP_RET_KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => p::SECCOMP_RET_KILL_PROCESS,
        "SCMP_ACT_TRAP" => p::SECCOMP_RET_TRAP,
        "SCMP_ACT_TRACE" => p::SECCOMP_RET_TRACE | data,
        "SCMP_ACT_LOG" => p::SECCOMP_RET_LOG,
        "SCMP_ACT_NOTIFY" => return Err(fault!(Unimplemented, "seccomp: SCMP_ACT_NOTIFY is not supported")),
        other => return Err(fault!(InvalidArgument, "seccomp: no action `{other}`")),
    })
}

fn condition(arg: &LinuxSeccompArg) -> Result<(u8, Comparison)> {
    let index = u8::try_from(arg.index).ok().filter(|index| *index < 6);
    let index = index.ok_or_else(|| fault!(InvalidArgument, "seccomp: a call has arguments 0 to 5"))?;
    let word = arg.op.strip_prefix("SCMP_CMP_").unwrap_or_default();
    let comparison = match word {
        "EQ" => Comparison::Equal(arg.value),
        "NE" => Comparison::NotEqual(arg.value),
        "LT" => Comparison::Less(arg.value),
        "LE" => Comparison::AtMost(arg.value),
        "GE" => Comparison::AtLeast(arg.value),
        "GT" => Comparison::More(arg.value),
        "MASKED_EQ" => Comparison::Masked(arg.value, arg.value_two),
        _ => return Err(fault!(InvalidArgument, "seccomp: no comparison `{}`", arg.op)),
    };
    Ok((index, comparison))
}

#[cfg(test)]
mod tests {
    use super::super::bpf::tests::run;
    use super::*;

    fn says(filter: &Filter, call: Sysno, first: u64) -> u32 {
        run(&filter.program, p::AUDIT_ARCH_X86_64, call as u32, [first, 0, 0, 0, 0, 0])
    }

    fn rule(names: &[&str], action: &str, args: &[(u64, u64, &str)]) -> LinuxSyscall {
        LinuxSyscall {
            names: names.iter().map(|name| (*name).into()).collect(),
            action: action.into(),
            errno_ret: None,
            args: args
                .iter()
                .map(|(index, value, op)| LinuxSeccompArg {
                    index: *index,
                    value: *value,
                    value_two: 0,
                    op: (*op).into(),
                })
                .collect(),
        }
    }

    fn of(default_action: &str, syscalls: Vec<LinuxSyscall>) -> LinuxSeccomp {
        LinuxSeccomp { default_action: default_action.into(), syscalls, ..Default::default() }
    }

    #[test]
    fn containers_have_no_vsock_unless_they_are_to() {
        let mut spec = Spec::default();
        let filter = bar(&spec).unwrap();
        for family in [40, 40 | 1 << 32] {
            assert_eq!(says(&filter, Sysno::socket, family), errno(EAFNOSUPPORT));
        }
        assert_eq!(says(&filter, Sysno::socket, 2), p::SECCOMP_RET_ALLOW);
        assert_eq!(says(&filter, Sysno::connect, 40), p::SECCOMP_RET_ALLOW);
        assert_eq!(says(&filter, Sysno::io_uring_setup, 8), errno(EPERM));
        spec.annotations.insert(VSOCK_ANNOTATION.into(), "true".into());
        assert_eq!(bar(&spec), None);
    }

    #[test]
    fn an_allow_list_with_conditions() {
        let rules = vec![
            rule(&["read", "no_such_call", "write"], "SCMP_ACT_ALLOW", &[]),
            rule(&["personality"], "SCMP_ACT_ALLOW", &[(0, 0, "SCMP_CMP_EQ"), (0, 8, "SCMP_CMP_EQ")]),
            LinuxSyscall { errno_ret: Some(38), ..rule(&["clone3"], "SCMP_ACT_ERRNO", &[]) },
        ];
        let filter = filter(&of("SCMP_ACT_ERRNO", rules)).unwrap();
        assert_eq!(says(&filter, Sysno::write, 1), p::SECCOMP_RET_ALLOW);
        assert_eq!(says(&filter, Sysno::open, 1), errno(EPERM));
        assert_eq!(says(&filter, Sysno::clone3, 1), errno(38));
        let personality = |value| says(&filter, Sysno::personality, value) == p::SECCOMP_RET_ALLOW;
        assert!(personality(0) && personality(8) && !personality(1));
    }

    #[test]
    fn what_makes_no_sense_or_is_not_supported_is_said() {
        let allow = |args: &[_]| of("SCMP_ACT_ALLOW", vec![rule(&["read"], "SCMP_ACT_KILL", args)]);
        for bad in [
            of("SCMP_ACT_FLY", vec![]),
            of("SCMP_ACT_NOTIFY", vec![]),
            allow(&[(6, 0, "SCMP_CMP_EQ")]),
            allow(&[(0, 0, "==")]),
            LinuxSeccomp { architectures: vec!["SCMP_ARCH_AARCH64".into()], ..allow(&[]) },
            LinuxSeccomp { flags: vec!["SECCOMP_FILTER_FLAG_NEW_LISTENER".into()], ..allow(&[]) },
            of("SCMP_ACT_ALLOW", vec![rule(&["read"; 3000], "SCMP_ACT_KILL", &[])]),
        ] {
            assert!(filter(&bad).is_err(), "{bad:?}");
        }
        assert!(filter(&allow(&[(5, 0, "SCMP_CMP_EQ")])).is_ok());
    }
}
