//! Programs of the classic packet filter that seccomp(2) takes: from conditions to instructions.

use linux_raw_sys::ptrace as b;

use crate::prelude::*;
use crate::sys::process::Instruction;

/// Most instructions of a program (BPF_MAXINSNS).
pub const LIMIT: usize = 4096;

/// Skips that are set when the length of what they skip is known.
const FAIL: u8 = u8::MAX;
const PASS: u8 = u8::MAX - 1;

/// Where struct seccomp_data has the call's number, its architecture and its arguments, in bytes.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

const LOAD: u32 = b::BPF_LD | b::BPF_W | b::BPF_ABS;
const MASK: u32 = b::BPF_ALU | b::BPF_AND | b::BPF_K;
const EQUAL: u32 = b::BPF_JMP | b::BPF_JEQ | b::BPF_K;
const ABOVE: u32 = b::BPF_JMP | b::BPF_JGT | b::BPF_K;
const AT_LEAST: u32 = b::BPF_JMP | b::BPF_JGE | b::BPF_K;

/// Numbers from here on are of the x32 ABI.
const X32: u32 = 1 << 30;

const fn jump(code: u32, value: u32, holds: u8, fails: u8) -> Instruction {
    Instruction { code: code as u16, skip: [holds, fails], value }
}

const fn step(code: u32, value: u32) -> Instruction {
    jump(code, value, 0, 0)
}

/// How an argument is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// It is this.
    Equal(u64),
    /// It is not this.
    NotEqual(u64),
    /// It is less.
    Less(u64),
    /// It is less, or this.
    AtMost(u64),
    /// It is more, or this.
    AtLeast(u64),
    /// It is more.
    More(u64),
    /// What this mask leaves of it is this.
    Masked(u64, u64),
}

/// A program being built.
pub struct Program(Vec<Instruction>);

impl Program {
    /// Begins: calls of another ABI than x86-64's own get `foreign`.
    pub fn new(foreign: u32) -> Program {
        Program(Vec::from([
            step(LOAD, ARCHITECTURE),
            jump(EQUAL, b::AUDIT_ARCH_X86_64, 1, 0),
            step(b::BPF_RET, foreign),
            step(LOAD, NUMBER),
            jump(AT_LEAST, X32, 0, 1),
            step(b::BPF_RET, foreign),
        ]))
    }

    /// Calls of this number whose arguments (0 to 5) all compare so get `action`, unless an earlier rule has said
    /// otherwise.
    pub fn rule(&mut self, number: u32, conditions: &[(u8, Comparison)], action: u32) {
        let mut block = Vec::from([jump(EQUAL, number, 0, FAIL)]);
        for &(argument, comparison) in conditions {
            condition(&mut block, argument, comparison);
        }
        block.push(step(b::BPF_RET, action));
        let end = block.len();
        resolve(&mut block, FAIL, end);
        if !conditions.is_empty() {
            // The number was lost for an argument; the rule's first instruction still has it, and skips this.
            block.push(step(LOAD, NUMBER));
            block[0].skip[1] += 1;
        }
        self.0.append(&mut block);
    }

    /// The whole program; what no rule is about gets `action`.
    pub fn finish(mut self, action: u32) -> Vec<Instruction> {
        self.0.push(step(b::BPF_RET, action));
        self.0
    }
}

/// Appends what goes on behind it when the comparison holds, and to the end of the block otherwise. A register has 32
/// bits, so the upper and the lower half are compared one after the other.
fn condition(block: &mut Vec<Instruction>, argument: u8, comparison: Comparison) {
    let lower = ARGUMENTS + 8 * u32::from(argument);
    let upper = lower + 4;
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let begin = block.len();
    // Where the upper halves are equal, the lower ones decide.
    let mut order = |lower_is, value, above, below| {
        let (high, low) = halves(value);
        block.extend([step(LOAD, upper), jump(ABOVE, high, above, 0), jump(EQUAL, high, 0, below)]);
        block.extend([step(LOAD, lower), jump(lower_is, low, above, below)]);
    };
    match comparison {
        Comparison::Equal(value) => condition(block, argument, Comparison::Masked(u64::MAX, value)),
        Comparison::Masked(mask, value) => {
            let ((mask_high, mask_low), (high, low)) = (halves(mask), halves(value));
            let halves = [(upper, mask_high, high), (lower, mask_low, low)];
            // Half of an argument that is to be nothing in particular always is.
            for (place, mask, value) in halves.into_iter().filter(|(_, mask, value)| mask | value != 0) {
                block.push(step(LOAD, place));
                block.extend((mask != u32::MAX).then(|| step(MASK, mask)));
                block.push(jump(EQUAL, value, 0, FAIL));
            }
        }
        Comparison::NotEqual(value) => {
            let (high, low) = halves(value);
            block.extend([step(LOAD, upper), jump(EQUAL, high, 0, PASS)]);
            block.extend([step(LOAD, lower), jump(EQUAL, low, FAIL, 0)]);
        }
        Comparison::More(value) => order(ABOVE, value, PASS, FAIL),
        Comparison::AtLeast(value) => order(AT_LEAST, value, PASS, FAIL),
        Comparison::Less(value) => order(AT_LEAST, value, FAIL, PASS),
        Comparison::AtMost(value) => order(ABOVE, value, FAIL, PASS),
    }
    resolve(&mut block[begin..], PASS, usize::MAX);
}

/// Sets the skips of a kind to lead to `end` (at most the block's own).
fn resolve(block: &mut [Instruction], kind: u8, end: usize) {
    let end = end.min(block.len());
    for (at, instruction) in block.iter_mut().enumerate() {
        for skip in instruction.skip.iter_mut().filter(|skip| **skip == kind) {
            // A rule has six conditions at most, of six instructions each.
            *skip = (end - at - 1) as u8;
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a program says to a call.
    pub fn run(program: &[Instruction], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let mut data = [number.to_le_bytes(), architecture.to_le_bytes(), [0; 4], [0; 4]].concat();
        data.extend(arguments.iter().flat_map(|argument| argument.to_le_bytes()));
        let (mut register, mut at) = (0u32, 0);
        loop {
            let Instruction { code, skip: [holds, fails], value } = program[at];
            at += 1;
            let mut skip = |condition: bool| at += usize::from(if condition { holds } else { fails });
            match u32::from(code) {
                LOAD => register = u32::from_le_bytes(data[value as usize..][..4].try_into().unwrap()),
                MASK => register &= value,
                EQUAL => skip(register == value),
                ABOVE => skip(register > value),
                AT_LEAST => skip(register >= value),
                b::BPF_RET => return value,
                code => panic!("no instruction {code}"),
            }
        }
    }

    fn holds(comparison: Comparison, argument: u64) -> bool {
        match comparison {
            Comparison::Equal(value) => argument == value,
            Comparison::NotEqual(value) => argument != value,
            Comparison::Less(value) => argument < value,
            Comparison::AtMost(value) => argument <= value,
            Comparison::AtLeast(value) => argument >= value,
            Comparison::More(value) => argument > value,
            Comparison::Masked(mask, value) => argument & mask == value,
        }
    }

    /// Values whose halves are often equal.
    fn value() -> impl Strategy<Value = u64> {
        (0u64..3, 0u64..3).prop_map(|(high, low)| high << 32 | low)
    }

    fn comparison() -> impl Strategy<Value = Comparison> {
        prop_oneof![
            value().prop_map(Comparison::Equal),
            value().prop_map(Comparison::NotEqual),
            value().prop_map(Comparison::Less),
            value().prop_map(Comparison::AtMost),
            value().prop_map(Comparison::AtLeast),
            value().prop_map(Comparison::More),
            (value(), value()).prop_map(|(mask, value)| Comparison::Masked(mask, value)),
        ]
    }

    proptest! {
        #[test]
        fn the_first_rule_that_holds_decides(
            rules in proptest::collection::vec((0u32..3, proptest::collection::vec((0u8..6, comparison()), 0..=6)), 0..6),
            calls in proptest::collection::vec((0u32..4, proptest::array::uniform6(value())), 1..20),
        ) {
            let mut program = Program::new(7);
            for (action, (number, conditions)) in rules.iter().enumerate() {
                program.rule(*number, conditions, 100 + action as u32);
            }
            let program = program.finish(9);
            for (number, arguments) in calls {
                let expected = rules.iter().position(|(of, conditions)| {
                    *of == number && conditions.iter().all(|(at, comparison)| holds(*comparison, arguments[*at as usize]))
                });
                let expected = expected.map_or(9, |action| 100 + action as u32);
                prop_assert_eq!(run(&program, b::AUDIT_ARCH_X86_64, number, arguments), expected);
                prop_assert_eq!(run(&program, b::AUDIT_ARCH_X86_64, number | X32, arguments), 7);
                prop_assert_eq!(run(&program, 0x4000_0003, number, arguments), 7);
            }
        }
    }
}
