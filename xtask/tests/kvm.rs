//! Whole images in virtual machines on ferry with KVM. A few: the many are on QEMU, and drive the same parts.

mod road;

use std::time::Duration;

use road::on_kvm;

/// On a KVM that emulates ring 0 a boot alone takes a minute.
const PATIENCE: Duration = Duration::from_secs(900);

#[test]
fn hello_says_hi_and_nothing_else() {
    let outcome = on_kvm(&["hello", "--", "sh", "-c", "echo hi; exit 7"]).within(PATIENCE).run();
    outcome.exits(7).prints("hi\n");
}
