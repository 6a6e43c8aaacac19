//! The flattened device tree: where the guest finds its processors, interrupt controllers and devices.
//!
//! The bindings are those that Linux's arch/x86/kernel/devicetree.c reads. Interrupt specifiers are `<pin type>`, where
//! type indexes that file's table of trigger modes.

use super::layout::{self, Slot};
use vm_fdt::{Error, FdtWriter};

/// The interrupt type for a rising edge, which is what an irqfd makes.
const EDGE_RISING: u32 = 3;
/// The I/O APIC's handle in the tree.
const IOAPIC_PHANDLE: u32 = 1;

/// Describes a machine with `vcpus` processors and a virtio device in each of `slots`.
pub fn describe(vcpus: u8, slots: &[Slot]) -> Result<Vec<u8>, Error> {
    let mut tree = FdtWriter::new()?;
    let root = tree.begin_node("")?;
    tree.property_string("compatible", "ferry,machine")?;
    tree.property_u32("#address-cells", 1)?;
    tree.property_u32("#size-cells", 1)?;

    let cpus = tree.begin_node("cpus")?;
    tree.property_u32("#address-cells", 1)?;
    tree.property_u32("#size-cells", 0)?;
    for id in 0..u32::from(vcpus) {
        let cpu = tree.begin_node(&format!("cpu@{id:x}"))?;
        tree.property_string("device_type", "cpu")?;
        tree.property_string("compatible", "x86,64")?;
        tree.property_u32("reg", id)?;
        tree.end_node(cpu)?;
    }
    tree.end_node(cpus)?;

    let bus = tree.begin_node("soc")?;
    tree.property_string("compatible", "simple-bus")?;
    tree.property_u32("#address-cells", 1)?;
    tree.property_u32("#size-cells", 1)?;
    tree.property_null("ranges")?;

    let lapic = tree.begin_node(&format!("interrupt-controller@{:x}", layout::LAPIC))?;
    tree.property_string("compatible", "intel,ce4100-lapic")?;
    tree.property_array_u32("reg", &[layout::LAPIC as u32, 0x1000])?;
    // LINT0 carries the legacy controller's interrupts from the start, and there is no IMCR to switch over.
    tree.property_null("intel,virtual-wire-mode")?;
    tree.end_node(lapic)?;

    let ioapic = tree.begin_node(&format!("interrupt-controller@{:x}", layout::IOAPIC))?;
    tree.property_string("compatible", "intel,ce4100-ioapic")?;
    tree.property_array_u32("reg", &[layout::IOAPIC as u32, 0x1000])?;
    tree.property_null("interrupt-controller")?;
    tree.property_u32("#interrupt-cells", 2)?;
    tree.property_phandle(IOAPIC_PHANDLE)?;
    tree.end_node(ioapic)?;

    for slot in slots {
        let device = tree.begin_node(&format!("virtio@{:x}", slot.address()))?;
        tree.property_string("compatible", "virtio,mmio")?;
        tree.property_array_u32("reg", &[slot.address() as u32, layout::VIRTIO_MMIO_SIZE as u32])?;
        tree.property_u32("interrupt-parent", IOAPIC_PHANDLE)?;
        tree.property_array_u32("interrupts", &[slot.gsi(), EDGE_RISING])?;
        tree.end_node(device)?;
    }

    let panic = tree.begin_node(&format!("pvpanic@{:x}", layout::PVPANIC))?;
    tree.property_string("compatible", "qemu,pvpanic-mmio")?;
    tree.property_array_u32("reg", &[layout::PVPANIC as u32, layout::PVPANIC_SIZE as u32])?;
    tree.end_node(panic)?;

    let generation = tree.begin_node(&format!("vmgenid@{:x}", layout::VMGENID))?;
    tree.property_string("compatible", "microsoft,vmgenid")?;
    tree.property_array_u32("reg", &[layout::VMGENID as u32, layout::VMGENID_SIZE as u32])?;
    tree.property_u32("interrupt-parent", IOAPIC_PHANDLE)?;
    tree.property_array_u32("interrupts", &[layout::VMGENID_GSI, EDGE_RISING])?;
    tree.end_node(generation)?;

    tree.end_node(bus)?;
    tree.end_node(root)?;
    tree.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of all nodes, read back from the structure block (Devicetree Specification 0.4, section 5.4).
    fn nodes(tree: &[u8]) -> Vec<String> {
        let word = |at: usize| u32::from_be_bytes(tree[at..at + 4].try_into().unwrap());
        assert_eq!(word(0), 0xd00d_feed);
        assert_eq!(word(4) as usize, tree.len());
        let (mut at, mut names) = (word(8) as usize, Vec::new());
        loop {
            match word(at) {
                1 => {
                    let length = tree[at + 4..].iter().position(|byte| *byte == 0).unwrap();
                    names.push(String::from_utf8(tree[at + 4..at + 4 + length].to_vec()).unwrap());
                    at += 4 + (length + 1).next_multiple_of(4);
                }
                2 | 4 => at += 4,
                3 => at += 12 + (word(at + 4) as usize).next_multiple_of(4),
                _ => return names,
            }
        }
    }

    #[test]
    fn names_every_processor_and_device() {
        let slots: Vec<_> = (0..2).map_while(Slot::new).collect();
        let names = nodes(&describe(2, &slots).unwrap());
        assert_eq!(
            names,
            [
                "",
                "cpus",
                "cpu@0",
                "cpu@1",
                "soc",
                "interrupt-controller@fee00000",
                "interrupt-controller@fec00000",
                "virtio@d0000000",
                "virtio@d0001000",
                "pvpanic@d0100000",
                "vmgenid@d0101000"
            ]
        );
    }

    #[test]
    fn fits_its_place_with_everything_at_its_most() {
        let slots: Vec<_> = (0..layout::MAX_VIRTIO_DEVICES).map_while(Slot::new).collect();
        let tree = describe(layout::MAX_VCPUS, &slots).unwrap();
        assert!((tree.len() as u64) < layout::SETUP_DTB_END - layout::SETUP_DTB - 16, "{}", tree.len());
    }
}
