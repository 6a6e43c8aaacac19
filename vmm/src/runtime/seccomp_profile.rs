//! Docker's profiles of system calls (`--security-opt seccomp=FILE`): JSON whose rules may depend on the capabilities that a
//! container has. The runtime specification's own form, which has no such conditions, is read as well.
//!
//! Conditions on the architecture are about x86-64, and those on the kernel's version hold: the guest's kernel is later than
//! any that profiles ask for.

use ferry_init::api::oci::{LinuxSeccomp, LinuxSeccompArg, LinuxSyscall};
use serde::Deserialize;

/// EPERM, the one error that calls without a rule can be refused with.
const EPERM: u32 = 1;
/// The names of this architecture in conditions.
const ARCHITECTURE: &str = "amd64";

/// A profile.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    default_action: String,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    arch_map: Option<Vec<Architecture>>,
    #[serde(default)]
    flags: Option<Vec<String>>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Architecture {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: String,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u64,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

impl Profile {
    /// Reads one.
    pub fn parse(text: &str) -> Result<Profile, String> {
        let profile: Profile = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if profile.default_errno_ret.is_some_and(|number| number != EPERM) {
            return Err(format!(
                "defaultErrnoRet: a call without a rule can be refused with error {EPERM} (EPERM) only"
            ));
        }
        Ok(profile)
    }

    /// What it comes to for a container that has these capabilities.
    pub fn for_capabilities(&self, capabilities: &[String]) -> LinuxSeccomp {
        let rules = self.syscalls.iter().flatten().filter(|rule| rule.holds(capabilities));
        let mapped =
            self.arch_map.iter().flatten().flat_map(|map| {
                std::iter::once(&map.architecture).chain(map.sub_architectures.iter().flatten())
            });
        LinuxSeccomp {
            default_action: self.default_action.clone(),
            architectures: self.architectures.iter().flatten().chain(mapped).cloned().collect(),
            flags: self.flags.clone().unwrap_or_default(),
            syscalls: rules.map(Rule::told).collect(),
        }
    }
}

impl Rule {
    fn holds(&self, capabilities: &[String]) -> bool {
        let has = |name: &String| capabilities.contains(name);
        let is_ours = |name: &String| name == ARCHITECTURE;
        let Rule { includes, excludes, .. } = self;
        includes.caps.iter().flatten().all(has)
            && includes.arches.as_ref().is_none_or(|arches| arches.is_empty() || arches.iter().any(is_ours))
            && !excludes.caps.iter().flatten().any(has)
            && !excludes.arches.iter().flatten().any(is_ours)
            && excludes.min_kernel.as_ref().is_none_or(String::is_empty)
    }

    fn told(&self) -> LinuxSyscall {
        let argument = |argument: &Argument| LinuxSeccompArg {
            index: argument.index,
            value: argument.value,
            value_two: argument.value_two,
            op: argument.op.clone(),
        };
        LinuxSyscall {
            names: self.name.iter().chain(self.names.iter().flatten()).cloned().collect(),
            action: self.action.clone(),
            errno_ret: self.errno_ret,
            args: self.args.iter().flatten().map(argument).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the form that Docker and Podman ship theirs.
    const PROFILE: &str = r#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "args": [], "comment": "", "includes": {}, "excludes": {}},
            {"names": ["process_vm_readv"], "action": "SCMP_ACT_ALLOW", "args": null, "includes": {"minKernel": "4.8"}},
            {"names": ["arm_sync_file_range"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm", "arm64"]}},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"], "arches": ["s390"]},
             "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"name": "clone3", "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": {"caps": ["CAP_SYS_ADMIN"]}}
        ]}"#;

    fn names(seccomp: &LinuxSeccomp) -> Vec<&str> {
        seccomp.syscalls.iter().flat_map(|rule| &rule.names).map(String::as_str).collect()
    }

    #[test]
    fn rules_hold_by_capability_and_architecture() {
        let profile = Profile::parse(PROFILE).unwrap();
        let usual = profile.for_capabilities(&["CAP_CHOWN".into()]);
        assert_eq!(names(&usual), ["read", "write", "process_vm_readv", "clone", "clone3"]);
        assert_eq!(usual.architectures, ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]);
        assert_eq!(usual.syscalls[2].args[0].op, "SCMP_CMP_MASKED_EQ");
        assert_eq!(usual.syscalls[3].errno_ret, Some(38));
        let privileged = profile.for_capabilities(&["CAP_SYS_ADMIN".into()]);
        assert_eq!(names(&privileged), ["read", "write", "process_vm_readv", "mount"]);
    }

    #[test]
    fn what_is_no_profile_is_said() {
        for text in ["", "[]", "{}", r#"{"defaultAction": 1}"#, r#"{"defaultAction":"x","syscalls":[{}]}"#] {
            assert!(Profile::parse(text).is_err(), "{text}");
        }
        let other = PROFILE.replace(r#""defaultErrnoRet": 1"#, r#""defaultErrnoRet": 38"#);
        assert!(Profile::parse(&other).unwrap_err().contains("defaultErrnoRet"));
    }
}
