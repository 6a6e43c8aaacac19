use std::fs::File;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::format::*;
use super::space::Space;
use super::tree::*;
use super::{read, write};
use crate::layer::fixture::told;

fn empty() -> Tree {
    Tree::new(&Space::memory()).unwrap()
}

fn written(tree: &mut Tree, data: &[u8]) -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(data, BLOCK as u64).unwrap();
    let first = 1 + data.len().div_ceil(BLOCK) as u32;
    let plan = write::Plan::new(tree, first).unwrap();
    file.set_len(u64::from(plan.blocks()) * BLOCK as u64).unwrap();
    plan.write(&file, &[]).unwrap();
    file
}

fn attributes(mtime: i64) -> Attributes {
    Attributes { mtime: (mtime, 0), ..Attributes::PLAIN_DIRECTORY }
}

fn add(tree: &mut Tree, directory: NodeId, name: &[u8], attributes: Attributes, content: Content) -> NodeId {
    let id = tree.add(Node { attributes, content }).unwrap();
    tree.link(directory, name, id).unwrap();
    id
}

fn add_directory(tree: &mut Tree, directory: NodeId, name: &[u8]) -> NodeId {
    let id = tree.add_directory(Attributes::PLAIN_DIRECTORY).unwrap();
    tree.link(directory, name, id).unwrap();
    id
}

/// The tree that comes back is the one that was written.
fn assert_round_trip(tree: &mut Tree, data: &[u8]) {
    let file = written(tree, data);
    let back = read::load(&file).unwrap();
    assert_eq!(told(&[&file], &back), told(&[&file], tree));
}

#[test]
fn an_empty_image_is_a_root_directory() {
    let file = written(&mut empty(), b"");
    assert_eq!(file.metadata().unwrap().len(), 2 * BLOCK as u64);
    let told = told(&[&file], &read::load(&file).unwrap());
    assert_eq!(told.into_iter().collect::<Vec<_>>(), [("/".into(), "40755 0:0 0.000000000".into())]);
}

#[test]
fn keeps_attributes_that_the_compact_inode_cannot_hold() {
    let mut tree = empty();
    let odd = [
        Attributes { uid: 65536, ..attributes(0) },
        Attributes { gid: u32::MAX - 1, ..attributes(0) },
        Attributes { mtime: (-1, 999_999_999), ..attributes(0) },
        Attributes { mtime: (1 << 40, 1), ..attributes(0) },
        Attributes { permissions: 0o7777, ..attributes(0) },
    ];
    for (number, attributes) in odd.into_iter().enumerate() {
        add(&mut tree, Tree::ROOT, &[b'a' + number as u8], attributes, Content::Fifo);
    }
    assert_round_trip(&mut tree, b"");
}

#[test]
fn counts_more_links_than_the_compact_inode_can() {
    let mut tree = empty();
    let id = add(&mut tree, Tree::ROOT, b"f", attributes(0), Content::Socket);
    for number in 0..70_000 {
        tree.link(Tree::ROOT, format!("link-{number}").as_bytes(), id).unwrap();
    }
    assert_round_trip(&mut tree, b"");
}

#[test]
fn large_directories_and_names_of_every_length_come_back() {
    let mut tree = empty();
    let directory = add_directory(&mut tree, Tree::ROOT, b"d");
    for length in 1..=LONGEST_NAME {
        for first in [b'!', b'-', b'.', b'0', b'z', 0xff] {
            let name = [&[first][..], &vec![b'.'; length - 1]].concat();
            if name != b"." && name != b".." {
                add(&mut tree, directory, &name, attributes(7), Content::Fifo);
            }
        }
    }
    assert_round_trip(&mut tree, b"");
}

#[test]
fn directories_that_end_anywhere_in_a_block_come_back() {
    for total in 3960..4110 {
        let mut tree = empty();
        let directory = add_directory(&mut tree, Tree::ROOT, b"d");
        // `.` and `..` take 27 bytes; eighteen entries of 212 each; the last fills up.
        for number in 0..18 {
            let name = format!("{number:0200}");
            add(&mut tree, directory, name.as_bytes(), attributes(0), Content::Fifo);
        }
        let name = vec![b'x'; total - 27 - 18 * 212 - DIRENT];
        add(&mut tree, directory, &name, attributes(0), Content::Fifo);
        assert_round_trip(&mut tree, b"");
    }
}

#[test]
fn symlinks_of_every_length_come_back() {
    let mut tree = empty();
    for length in (1..=4095).step_by(31).chain([4031, 4032, 4033, 4063, 4064, 4065, 4095]) {
        let target = tree.add_text(&vec![b't'; length]).unwrap();
        add(
            &mut tree,
            Tree::ROOT,
            format!("{length}").as_bytes(),
            attributes(length as i64),
            Content::Symlink(target),
        );
    }
    assert_round_trip(&mut tree, b"");
}

#[test]
fn attributes_in_use_by_many_are_stored_once() {
    let image = |files: u32| {
        let mut tree = empty();
        let label = Xattr::new(b"security.selinux", &[b'l'; 1000]).unwrap();
        let xattrs = tree.xattrs_id(vec![label]);
        for number in 0..files {
            let attributes = Attributes { xattrs, ..attributes(0) };
            add(&mut tree, Tree::ROOT, format!("{number}").as_bytes(), attributes, Content::Fifo);
        }
        assert_round_trip(&mut tree, b"");
        written(&mut tree, b"").metadata().unwrap().len()
    };
    assert!(image(400) < 20 * BLOCK as u64, "{}", image(400));
}

#[test]
fn attributes_up_to_the_largest_come_back() {
    let mut tree = empty();
    let set = |count: usize, length: usize| {
        let numbers = 0..count;
        numbers
            .map(|n| Xattr::new(format!("user.{n}").as_bytes(), &vec![b'v'; length]).unwrap())
            .collect::<Vec<_>>()
    };
    for (number, set) in
        [set(1, 0), set(1, 65535), set(3, 65535), set(300, 1), set(40, 4091)].into_iter().enumerate()
    {
        assert!(super::xattrs_fit(&set));
        let xattrs = tree.xattrs_id(set);
        for twice in 0..2 {
            let name = format!("{number}-{twice}");
            add(
                &mut tree,
                Tree::ROOT,
                name.as_bytes(),
                Attributes { xattrs, ..attributes(9) },
                Content::Fifo,
            );
        }
    }
    assert_round_trip(&mut tree, b"");
    assert!(!super::xattrs_fit(&set(5, 65535)));
}

#[test]
fn names_that_cannot_be_stored_are_no_attributes() {
    for name in
        ["user.", "nfs4.acl", "system.posix_acl_access2", "system.nfs4_acl", "trusted", "", "user.a\0"]
    {
        assert_eq!(Xattr::new(name.as_bytes(), b""), None, "{name}");
    }
    for name in
        ["user.a", "trusted.b", "security.capability", "system.posix_acl_access", "system.posix_acl_default"]
    {
        assert_eq!(Xattr::new(name.as_bytes(), b"").unwrap().name(), name.as_bytes());
    }
}

#[test]
fn a_directory_that_contains_itself_is_refused() {
    let mut tree = empty();
    let directory = add_directory(&mut tree, Tree::ROOT, b"d");
    add_directory(&mut tree, directory, b"e");
    let file = written(&mut tree, b"");
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    // The entries of the two directories end with their names; `e`'s node number becomes the root's.
    let root = u64::from(u16::from_le_bytes([bytes[SUPER_OFFSET + 14], bytes[SUPER_OFFSET + 15]]));
    let names = bytes.windows(4).position(|window| window == b"...e").unwrap();
    file.write_all_at(&root.to_le_bytes(), (names - DIRENT) as u64).unwrap();
    assert!(read::load(&file).unwrap_err().to_string().contains("two names"));
}

#[test]
fn directories_that_share_their_entries_are_refused() {
    let mut tree = empty();
    let large = add_directory(&mut tree, Tree::ROOT, b"large");
    for number in 0..100 {
        add(&mut tree, large, format!("{number:0200}").as_bytes(), attributes(0), Content::Fifo);
        add_directory(&mut tree, Tree::ROOT, format!("{number}").as_bytes());
    }
    let file = written(&mut tree, b"");
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    // Every empty directory (27 bytes of `.` and `..`) gets the entries of the large one, six blocks of them.
    let is_directory = |inode: &[u8]| inode[4..6] == (S_IFDIR | 0o755).to_le_bytes() && inode[0] & 1 == 0;
    let size = |inode: &[u8]| u32::from_le_bytes(inode[8..12].try_into().unwrap());
    let inodes = || bytes[BLOCK..].chunks_exact(SLOT).enumerate().filter(|(_, inode)| is_directory(inode));
    let (_, large) = inodes().find(|(_, inode)| (5 * 4096..7 * 4096).contains(&size(inode))).unwrap();
    let mut shared = 0;
    for (slot, inode) in inodes().filter(|(_, inode)| size(inode) == 27) {
        let mut inode = inode.to_vec();
        put16(&mut inode, 0, FLAT_PLAIN << 1);
        put32(&mut inode, 8, 5 * 4096);
        inode[16..20].copy_from_slice(&large[16..20]);
        file.write_all_at(&inode, (BLOCK + slot * SLOT) as u64).unwrap();
        shared += 1;
    }
    assert_eq!(shared, 100);
    assert!(read::load(&file).unwrap_err().to_string().contains("share their metadata"));
}

#[test]
fn a_shortened_image_is_refused() {
    let mut tree = empty();
    add_directory(&mut tree, Tree::ROOT, b"d");
    for length in [0, 1000, 1100, 4096, 8191] {
        let file = written(&mut tree, b"");
        file.set_len(length).unwrap();
        assert!(read::load(&file).is_err(), "{length}");
    }
}

/// A file, a link, a directory…, where it goes and what it is called.
#[derive(Debug, Clone)]
struct Made {
    parent: prop::sample::Index,
    name: Vec<u8>,
    kind: u8,
    attributes: (u16, u32, u32, i64, u32),
    xattrs: Vec<(u8, Vec<u8>)>,
}

fn made() -> impl Strategy<Value = Made> {
    let name = prop_oneof![
        prop::collection::vec(
            any::<u8>().prop_filter("no slash, no NUL", |b| ![0, b'/'].contains(b)),
            1..=255
        ),
        "[a-c]{1,2}".prop_map(String::into_bytes),
    ];
    let name = name.prop_filter("a name", |name| name != b"." && name != b"..");
    let number = prop_oneof![Just(0u32), Just(65535), Just(65536), Just(u32::MAX - 1)];
    let attributes =
        (0..0o10000u16, number.clone(), number, prop_oneof![Just(0i64), any::<i64>()], 0..1_000_000_000u32);
    let xattrs = prop::collection::vec((0..6u8, prop::collection::vec(any::<u8>(), 0..60)), 0..4);
    (any::<prop::sample::Index>(), name, 0..9u8, attributes, xattrs)
        .prop_map(|(parent, name, kind, attributes, xattrs)| Made { parent, name, kind, attributes, xattrs })
}

fn tree_of(list: &[Made]) -> Tree {
    let mut tree = empty();
    let (mut directories, mut others) = (vec![Tree::ROOT], Vec::new());
    for made in list {
        let parent = directories[made.parent.index(directories.len())];
        let (permissions, uid, gid, seconds, nanoseconds) = made.attributes;
        if tree.child(parent, &made.name).is_some() {
            continue;
        }
        let set = made
            .xattrs
            .iter()
            .map(|(name, value)| Xattr::new(&[b"user.x", &[b'a' + name][..]].concat(), value));
        let xattrs = tree.xattrs_id(set.flatten().collect());
        let attributes = Attributes { permissions, uid, gid, mtime: (seconds, nanoseconds), xattrs };
        let block = 1;
        let content = match made.kind {
            0 | 1 => {
                let id = tree.add_directory(attributes).unwrap();
                tree.link(parent, &made.name, id).unwrap();
                directories.push(id);
                continue;
            }
            2 => Content::File { size: 0, data: Data::Plain { device: 0, block: 0 } },
            3 => Content::File { size: 4097, data: Data::Plain { device: 0, block } },
            4 => {
                let chunks = Chunks { device: 0, bits: 0, blocks: vec![HOLE, block, HOLE, block + 1] };
                Content::File { size: 3 * 4096 + 5, data: tree.add_chunks(chunks) }
            }
            5 => {
                let target = made.name.repeat(1 + usize::from(permissions) % 16);
                Content::Symlink(tree.add_text(&target).unwrap())
            }
            6 => Content::Block(uid),
            7 if !others.is_empty() => {
                tree.link(parent, &made.name, others[made.parent.index(others.len())]).unwrap();
                continue;
            }
            _ => Content::Fifo,
        };
        others.push(add(&mut tree, parent, &made.name, attributes, content));
    }
    tree
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_comes_back(list in prop::collection::vec(made(), 0..60)) {
        assert_round_trip(&mut tree_of(&list), &[7; 3 * BLOCK]);
    }

    /// Whatever is wrong with an image: an answer, and soon.
    #[test]
    fn a_damaged_image_is_read_or_refused(
        list in prop::collection::vec(made(), 1..20),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..30),
    ) {
        let file = written(&mut tree_of(&list), &[7; 3 * BLOCK]);
        let length = file.metadata().unwrap().len() as usize;
        for (place, byte) in damage {
            // The superblock's fields, and the metadata.
            let place = place.index(length - 4 * BLOCK + 100);
            let place = if place < 100 { SUPER_OFFSET + place } else { 4 * BLOCK + place - 100 };
            file.write_all_at(&[byte], place as u64).unwrap();
        }
        if let Ok(mut tree) = read::load(&file) {
            // What was accepted can be written again.
            write::Plan::new(&mut tree, 1).unwrap();
        }
    }
}
