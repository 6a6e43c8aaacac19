//! Which devices a container's processes may use: rules as a program of the kernel's (eBPF, type cgroup device).
//!
//! As the specification has it, the last rule about a device decides, here for each of the rights `r`, `w` and `m` by
//! itself; what no rule is about is denied. The nodes that every container has can always be used.

use crate::api::oci::LinuxDeviceCgroup;
use crate::prelude::*;

/// One instruction (struct bpf_insn): the code, the destination and source registers (four bits each), an offset, and a
/// number.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    value: i32,
}

/// Most rules of a container.
const LIMIT: usize = 1024;

// Codes of include/uapi/linux/bpf.h: a class with an operation, and whether it is with a register or a number.
const LOAD: u8 = 0x61;
const MOVE: u8 = 0xbc;
const SET: u8 = 0xb4;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const UNLESS_EQUAL: u8 = 0x56;
const IF_EQUAL: u8 = 0x16;
const EXIT: u8 = 0x95;

/// Registers: what is returned; the context; then what it says.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// Kinds of devices, and rights (BPF_DEVCG_DEV_*, BPF_DEVCG_ACC_*).
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;
const RIGHTS: [(u8, i32); 3] = [(b'm', 1), (b'r', 2), (b'w', 4)];
const ALL: i32 = 7;

/// A rule.
struct Rule {
    allow: bool,
    /// `None` for both.
    kind: Option<i32>,
    /// `None` for all.
    major: Option<i32>,
    minor: Option<i32>,
    access: i32,
}

/// Character devices that every container may use: the nodes of its /dev, and terminals. Major, minor (`None` for all).
const ALWAYS: [(i32, Option<i32>); 8] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(2)),
    (136, None),
];

const fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Instruction {
    Instruction { code, registers: from << 4 | to, offset, value }
}

/// The program for these rules; `None` for no rules, which restrict nothing.
pub fn program(rules: &[LinuxDeviceCgroup]) -> Result<Option<Vec<Instruction>>> {
    if rules.is_empty() {
        return Ok(None);
    }
    refuse_if!(rules.len() > LIMIT, InvalidArgument, "a container has at most {LIMIT} rules about devices");
    // struct bpf_cgroup_dev_ctx: kind and rights in one number, major, minor.
    let mut program = Vec::from([
        instruction(LOAD, KIND, CONTEXT, 0, 0),
        instruction(MOVE, ACCESS, KIND, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        instruction(LOAD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD, MINOR, CONTEXT, 8, 0),
    ]);
    for (major, minor) in ALWAYS {
        let rule = Rule { allow: true, kind: Some(CHARACTER), major: Some(major), minor, access: ALL };
        append(&mut program, &rule);
    }
    // The last rule comes first: what it decides is decided.
    for rule in rules.iter().rev() {
        append(&mut program, &parse(rule)?);
    }
    program.extend(answer(0));
    Ok(Some(program))
}

fn answer(allowed: i32) -> [Instruction; 2] {
    [instruction(SET, RESULT, 0, 0, allowed), instruction(EXIT, 0, 0, 0, 0)]
}

fn parse(rule: &LinuxDeviceCgroup) -> Result<Rule> {
    let kind = match rule.r#type.as_str() {
        "" | "a" => None,
        "b" => Some(BLOCK),
        "c" | "u" => Some(CHARACTER),
        other => return Err(fault!(InvalidArgument, "a rule about devices of the type `{other}`")),
    };
    // The messages cannot leave a number out; 0:0 is no device.
    let is_any = kind.is_none() || (rule.major, rule.minor) == (0, 0);
    let number = |number: i64| match i32::try_from(number) {
        _ if is_any || number == -1 => Ok(None),
        Ok(number) if number >= 0 => Ok(Some(number)),
        _ => Err(fault!(InvalidArgument, "a rule about devices with the number {number}")),
    };
    let mut access = 0;
    for right in rule.access.bytes() {
        let known = RIGHTS.iter().find(|(letter, _)| *letter == right);
        let known = known.ok_or_else(|| fault!(InvalidArgument, "`{}` is none of rwm", rule.access));
        access |= known?.1;
    }
    let access = if access == 0 { ALL } else { access };
    Ok(Rule { allow: rule.allow, kind, major: number(rule.major)?, minor: number(rule.minor)?, access })
}

/// Appends what a rule decides: the rights that it allows are taken out of those asked for, until none is left; one that
/// it denies ends the program.
fn append(program: &mut Vec<Instruction>, rule: &Rule) {
    let mut effect = if rule.allow {
        Vec::from([instruction(AND, ACCESS, 0, 0, !rule.access), instruction(UNLESS_EQUAL, ACCESS, 0, 2, 0)])
    } else {
        Vec::from([
            instruction(MOVE, RESULT, ACCESS, 0, 0),
            instruction(AND, RESULT, 0, 0, rule.access),
            instruction(IF_EQUAL, RESULT, 0, 2, 0),
        ])
    };
    effect.extend(answer(rule.allow.into()));
    // Before that the conditions: where one does not hold, all that is behind it is skipped.
    for (register, value) in [(MINOR, rule.minor), (MAJOR, rule.major), (KIND, rule.kind)] {
        if let Some(value) = value {
            effect.insert(0, instruction(UNLESS_EQUAL, register, 0, effect.len() as i16, value));
        }
    }
    program.append(&mut effect);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a program says to a use of a device.
    fn run(program: &[Instruction], kind: i32, access: i32, major: i32, minor: i32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let (mut registers, mut at) = ([0i32; 10], 0);
        loop {
            let Instruction { code, registers: fields, offset, value } = program[at];
            let (to, from) = (usize::from(fields & 15), usize::from(fields >> 4));
            at += 1;
            match code {
                LOAD => registers[to] = context[offset as usize / 4],
                MOVE => registers[to] = registers[from],
                SET => registers[to] = value,
                AND => registers[to] &= value,
                SHIFT_RIGHT => registers[to] = (registers[to] as u32 >> value) as i32,
                UNLESS_EQUAL if registers[to] != value => at += offset as usize,
                IF_EQUAL if registers[to] == value => at += offset as usize,
                UNLESS_EQUAL | IF_EQUAL => {}
                EXIT => return registers[0] == 1,
                code => panic!("no instruction {code:#x}"),
            }
        }
    }

    fn rule(allow: bool, kind: &str, major: i64, minor: i64, access: &str) -> LinuxDeviceCgroup {
        LinuxDeviceCgroup { allow, r#type: kind.into(), major, minor, access: access.into() }
    }

    #[test]
    fn dockers_rules_allow_nodes_to_be_made_and_no_disk_to_be_read() {
        let rules =
            [rule(false, "a", -1, -1, "rwm"), rule(true, "c", -1, -1, "m"), rule(true, "b", -1, -1, "m")];
        let program = program(&rules).unwrap().unwrap();
        let may = |kind, access, major, minor| run(&program, kind, access, major, minor);
        assert!(may(BLOCK, 1, 254, 0) && !may(BLOCK, 2, 254, 0) && !may(BLOCK, 3, 254, 0));
        assert!(may(CHARACTER, 6, 1, 3) && may(CHARACTER, 2, 136, 9) && !may(CHARACTER, 2, 10, 200));
    }

    #[test]
    fn no_rules_restrict_nothing_and_nonsense_is_refused() {
        assert_eq!(program(&[]), Ok(None));
        for bad in [
            rule(true, "x", 1, 1, "r"),
            rule(true, "c", -2, 1, "r"),
            rule(true, "c", 1, 1 << 40, "r"),
            rule(true, "c", 1, 1, "rx"),
        ] {
            assert!(program(&[bad]).is_err());
        }
        assert!(program(&vec![rule(true, "c", 1, 1, "r"); LIMIT + 1]).is_err());
    }

    proptest! {
        #[test]
        fn the_last_rule_about_a_right_decides(
            rules in proptest::collection::vec((any::<bool>(), 0usize..3, -1i64..3, -1i64..3, 1i32..8), 1..8),
            (kind, access, major, minor) in (1i32..3, 1i32..8, 20i32..23, 0i32..3),
        ) {
            let text = |access: i32| {
                RIGHTS.iter().filter(|(_, bit)| access & bit != 0).map(|(letter, _)| *letter as char).collect::<String>()
            };
            let major_of = |major: i64| if major < 0 { -1 } else { major + 20 };
            let list: Vec<_> = rules
                .iter()
                .map(|(allow, kind, major, minor, access)| {
                    rule(*allow, ["a", "b", "c"][*kind], major_of(*major), *minor, &text(*access))
                })
                .collect();
            let program = program(&list).unwrap().unwrap();
            let is_about = |(_, of, about, number, _): &&(bool, usize, i64, i64, i32)| {
                *of == 0
                    || (*of as i32 == kind
                        && [-1, i64::from(major)].contains(&major_of(*about))
                        && [-1, i64::from(minor)].contains(number))
            };
            let allowed = |bit: i32| {
                rules.iter().rev().filter(is_about).find(|rule| rule.4 & bit != 0).is_some_and(|rule| rule.0)
            };
            let expected = [1, 2, 4].into_iter().filter(|bit| access & bit != 0).all(allowed);
            prop_assert_eq!(run(&program, kind, access, major, minor), expected);
        }
    }
}
