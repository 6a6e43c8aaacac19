//! Configures and compiles the source, out of tree, so that the same input gives the same bytes wherever it is built.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::config::Fragment;
use crate::workshop::Workshop;

/// Where one build happens.
#[derive(Debug)]
pub struct Build<'a> {
    /// What it is done with.
    pub workshop: &'a Workshop,
    /// The patched source. Only read.
    pub tree: &'a Path,
    /// Objects; kept from build to build, so that an interrupted one goes on and a changed fragment compiles little.
    pub objects: &'a Path,
    /// The source's date in seconds since 1970, which is also the kernel's.
    pub released: u64,
}

impl Build<'_> {
    /// Makes `.config` out of nothing and `fragment`; fails if Kconfig lost a line of it.
    pub fn configure(&self, fragment: &Path) -> Result<()> {
        let text =
            fs::read_to_string(fragment).with_context(|| format!("cannot read {}", fragment.display()))?;
        let wanted = Fragment::parse(&text).with_context(|| fragment.display().to_string())?;
        let before = fs::read(self.objects.join(".config")).ok();
        let step = self.workshop.report.step("guest kernel: configuration", Duration::from_secs(10));
        let mut make = self.make();
        make.env("KCONFIG_ALLCONFIG", fragment).arg("allnoconfig");
        self.workshop.report.run(&step, &mut make, &self.objects.join("configure.log"))?;
        let config = self.objects.join(".config");
        let is = fs::read_to_string(&config).with_context(|| format!("cannot read {}", config.display()))?;
        let lost = wanted.lost(&is);
        if !lost.is_empty() {
            // Not to be taken for a finished configuration by anyone who looks here.
            fs::rename(&config, self.objects.join("refused.config"))?;
            bail!("Kconfig did not keep {}:\n    {}", fragment.display(), lost.join("\n    "));
        }
        if before.is_some_and(|before| before == is.as_bytes()) {
            return Ok(());
        }
        let mut make = self.make();
        self.workshop.report.run(&step, make.arg("olddefconfig"), &self.objects.join("configure.log"))
    }

    /// Compiles `vmlinux` with all its symbols.
    pub fn compile(&self) -> Result<()> {
        let step = self.workshop.report.step("guest kernel: once", Duration::from_secs(300));
        let mut make = self.make();
        let jobs = thread::available_parallelism().map_or(1, |n| n.get());
        make.arg(format!("-j{jobs}")).arg("vmlinux");
        self.workshop.report.run(&step, &mut make, &self.objects.join("build.log"))
    }

    /// `make` for this build, rid of everything that could differ between two machines with the same compiler.
    fn make(&self) -> Command {
        let mut make = self.workshop.tools.command("make");
        for (name, _) in std::env::vars_os() {
            if steers_a_build(&name.to_string_lossy()) {
                make.env_remove(name);
            }
        }
        make.arg("-C").arg(self.tree).arg(format!("O={}", self.objects.display()));
        make.arg("ARCH=x86_64");
        // Paths of the two directories reach the image through __FILE__ and through assembler sources.
        let here = format!(
            "-ffile-prefix-map={}/= -ffile-prefix-map={}/=",
            self.tree.display(),
            self.objects.display()
        );
        make.arg(format!("KCFLAGS={here}")).arg(format!("KAFLAGS={here}"));
        make.envs([
            ("LC_ALL", "C"),
            ("TZ", "UTC"),
            ("KCONFIG_NOTIMESTAMP", "1"),
            ("KBUILD_BUILD_USER", "ferry"),
            ("KBUILD_BUILD_HOST", "ferry"),
            ("KBUILD_BUILD_VERSION", "1"),
        ]);
        make.env("KBUILD_BUILD_TIMESTAMP", timestamp(self.released));
        make.env("SOURCE_DATE_EPOCH", self.released.to_string());
        make
    }
}

/// Variables that an environment may hold and Kbuild would follow.
fn steers_a_build(name: &str) -> bool {
    name.starts_with("KBUILD_")
        || name.starts_with("KCONFIG_")
        || name.starts_with("CONFIG_")
        || [
            "ARCH",
            "CROSS_COMPILE",
            "LLVM",
            "CC",
            "LD",
            "AR",
            "AS",
            "MAKEFLAGS",
            "MAKELEVEL",
            "MFLAGS",
            "LOCALVERSION",
            "KCFLAGS",
            "KAFLAGS",
            "KCPPFLAGS",
            "CFLAGS",
            "LDFLAGS",
            "CPPFLAGS",
            "W",
            "C",
            "V",
            "O",
        ]
        .contains(&name)
}

/// The compiler and linker by their own words: part of the cache key.
pub fn toolchain(workshop: &Workshop) -> Result<String> {
    let mut said = String::new();
    for program in ["gcc", "ld"] {
        let output = workshop.tools.command(program).arg("--version").env("LC_ALL", "C").output();
        let output = output.with_context(|| format!("cannot start `{program}`"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        said.push_str(text.lines().next().unwrap_or(""));
        said.push('\n');
    }
    Ok(said)
}

/// Seconds since 1970 as `date -u` in the C locale prints them, which is the form the kernel's own build uses.
fn timestamp(seconds: u64) -> String {
    const DAY: u64 = 86_400;
    const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (mut day, time) = (seconds / DAY, seconds % DAY);
    let weekday = WEEKDAYS[(day % 7) as usize];
    let mut year = 1970;
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut month = 0;
    for length in [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    let (month, day) = (MONTHS[month], day + 1);
    format!("{weekday} {month} {day:2} {hour:02}:{minute:02}:{second:02} UTC {year}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_reads_as_date_prints_it() {
        assert_eq!(timestamp(0), "Thu Jan  1 00:00:00 UTC 1970");
        assert_eq!(timestamp(951_782_400), "Tue Feb 29 00:00:00 UTC 2000");
        assert_eq!(timestamp(1_735_689_599), "Tue Dec 31 23:59:59 UTC 2024");
        assert_eq!(timestamp(4_107_542_400), "Mon Mar  1 00:00:00 UTC 2100");
    }

    #[test]
    fn the_callers_environment_does_not_steer_the_build() {
        for name in ["KBUILD_BUILD_USER", "KCONFIG_CONFIG", "CROSS_COMPILE", "KCFLAGS", "MAKEFLAGS", "O"] {
            assert!(steers_a_build(name), "{name}");
        }
        for name in ["PATH", "HOME", "LD_LIBRARY_PATH", "CARGO"] {
            assert!(!steers_a_build(name), "{name}");
        }
    }
}
