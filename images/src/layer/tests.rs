use std::io::Read;

use proptest::prelude::*;

use super::fixture::{Header, Tar, converted, read_file, told};
use super::*;
use crate::erofs::read;
use crate::erofs::tree::{Chunks, Content, Data, Tree};

/// The layer's tree as text, marks included.
fn lines(archive: &[u8]) -> Vec<String> {
    let (file, _) = converted(archive).unwrap();
    let told = told(&[&file], &read::load(&file).unwrap());
    told.into_iter().map(|(path, text)| format!("{path} {text}")).collect()
}

fn refusal(archive: &[u8]) -> String {
    converted(archive).unwrap_err().to_string()
}

fn file() -> File {
    tempfile::tempfile().unwrap()
}

const ROOT: &str = "/ 40755 0:0 0.000000000 trusted.overlay.ferry.implicit=y";

#[test]
fn an_empty_archive_is_an_empty_layer() {
    for archive in [Tar::new().end(), Vec::new(), vec![0; 512], vec![0; 10240]] {
        assert_eq!(lines(&archive), [ROOT]);
    }
}

#[test]
fn every_type_of_file_is_kept() {
    let device = |kind, name: &[u8], major, minor| {
        let mut header = Header::new(kind, name, 0);
        header.octal(329, 8, major).octal(337, 8, minor);
        header
    };
    let archive = Tar::new()
        .raw(Header::new(b'5', b"./", 0).octal(100, 8, 0o1777), b"")
        .raw(
            Header::new(b'0', b"./file", 3).octal(100, 8, 0o104755).octal(108, 8, 1000).octal(136, 12, 7),
            b"abc",
        )
        .raw(Header::new(b'7', b"/contiguous", 1).octal(116, 8, 0o7777777), b"x")
        .symlink("link", "../target")
        .raw(&device(b'3', b"char", 1, 3), b"")
        .raw(&device(b'4', b"block", 259, 70_000), b"")
        .raw(&device(b'6', b"fifo", 0, 0), b"")
        .hard_link("file2", "./file")
        .raw(&Header::new(0, b"old-directory/", 0), b"");
    let told = lines(&archive.end());
    let hash = |bytes: &[u8]| format!("{:x}", xxhash_rust::xxh3::xxh3_64(bytes));
    let expected = [
        "/ 41777 0:0 0.000000000".to_owned(),
        "/block 60644 0:0 0.000000000 device 0x11110370".to_owned(),
        "/char 20644 0:0 0.000000000 device 0x103".to_owned(),
        format!("/contiguous 100644 0:2097151 0.000000000 1 bytes {} x", hash(b"x")),
        "/fifo 10644 0:0 0.000000000".to_owned(),
        format!("/file 104755 1000:0 7.000000000 3 bytes {} abc", hash(b"abc")),
        "/file2 = /file".to_owned(),
        "/link 120644 0:0 0.000000000 -> ../target".to_owned(),
        "/old-directory 40644 0:0 0.000000000".to_owned(),
    ];
    assert_eq!(told, expected);
}

#[test]
fn extended_headers_say_what_the_header_cannot() {
    let long_name = format!("{}/{}", "d".repeat(255), "n".repeat(255));
    let target = "t".repeat(4095);
    let archive = Tar::new()
        .pax(
            b'x',
            &[("path", long_name.as_bytes()), ("uid", b"4294967294"), ("gid", b"70000"), ("mtime", b"-1.5")],
        )
        .file("short", b"")
        .pax(b'x', &[("path", b"link"), ("linkpath", target.as_bytes()), ("mtime", b"9999999999.123456789")])
        .symlink("x", "y")
        .pax(b'x', &[("path", b"\xff\xfe\x01"), ("comment", b"nothing")])
        .file("x", b"");
    let told = lines(&archive.end());
    assert!(told[1].starts_with("/\\xff\\xfe\\x01 100644"), "{told:?}");
    assert!(
        told[3].starts_with(&format!("/{long_name} 100644 4294967294:70000 -2.500000000 0 bytes")),
        "{told:?}"
    );
    assert_eq!(told[4], format!("/link 120644 0:0 9999999999.123456789 -> {target}"));
}

#[test]
fn global_headers_hold_until_they_are_taken_back() {
    let archive = Tar::new()
        .pax(b'g', &[("uid", b"5"), ("comment", b"c")])
        .file("a", b"")
        .pax(b'x', &[("uid", b"6")])
        .file("b", b"")
        .file("c", b"")
        .pax(b'g', &[("uid", b"")])
        .file("d", b"");
    let told = lines(&archive.end());
    let owners: Vec<&str> = told[1..].iter().map(|line| line.split(' ').nth(2).unwrap()).collect();
    assert_eq!(owners, ["5:0", "6:0", "5:0", "0:0"]);
}

#[test]
fn gnu_long_names_and_binary_numbers_are_read() {
    let name = "g/".repeat(100) + "end";
    let mut header = Header::new(b'0', b"cut", 0);
    header.put(257, b"ustar  \0").put(108, &[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xfe]);
    header.put(136, &[0xff; 12]).put(345, b"not a prefix");
    let mut long = format!("{name}\0").into_bytes();
    long.push(b'x');
    let archive = Tar::new()
        .raw(&Header::new(b'L', b"././@LongLink", long.len() as u64), &long)
        .raw(&header, b"")
        .raw(&Header::new(b'K', b"././@LongLink", 201), &[&[b't'; 200][..], b"\0"].concat())
        .symlink("link", "cut")
        .raw(header.put(0, b"two"), b"");
    let told = lines(&archive.end());
    assert!(told.iter().any(|line| line.starts_with(&format!("/{name} 100644 4294967294:0 -1.000000000"))));
    assert!(told.iter().any(|line| line.ends_with(&format!("-> {}", "t".repeat(200)))));
    assert!(told.iter().any(|line| line.starts_with("/two ")));
}

#[test]
fn attributes_of_both_makes_are_kept_and_foreign_ones_left_out() {
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let records: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.security.capability", capability),
        ("SCHILY.xattr.user.empty", b""),
        ("LIBARCHIVE.xattr.user.a%3Db", b"AP8"),
        ("LIBARCHIVE.xattr.user.both", b"AAAA"),
        ("SCHILY.xattr.user.both", b"star's"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.overlay.ferry.link", b"etc/shadow"),
        ("SCHILY.xattr.btrfs.compression", b"zstd"),
        ("SCHILY.xattr.system.posix_acl_access", b"\x02\0\0\0"),
    ];
    let archive = Tar::new().pax(b'x', records).directory("d").pax(b'x', &records[1..3]).symlink("l", "t");
    let told = lines(&archive.end());
    let expected = format!(
        "/d 40755 0:0 0.000000000 user.a=b=\\x00\\xff user.both=star\\'s user.empty= \
         system.posix_acl_access=\\x02\\x00\\x00\\x00 security.capability={}",
        capability.escape_ascii()
    );
    assert_eq!(told[1], expected);
    assert_eq!(told[2], "/l 120644 0:0 0.000000000 -> t");
}

#[test]
fn later_entries_replace_earlier_ones() {
    let archive = Tar::new()
        .file("f", b"old")
        .hard_link("kept", "f")
        .file("f", b"new")
        .file("d/below/deep", b"gone")
        .file("d", b"file")
        .directory("e")
        .file("e/stays", b"")
        .pax(b'x', &[("uid", b"9")])
        .directory("e/")
        .file("g", b"")
        .directory("g")
        .symlink("e/stays", "now a link");
    let told = lines(&archive.end());
    let short: Vec<String> =
        told.iter().map(|line| line.split(' ').take(3).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        short[1..],
        [
            "/d 100644 0:0",
            "/e 40755 9:0",
            "/e/stays 120644 0:0",
            "/f 100644 0:0",
            "/g 40755 0:0",
            "/kept 100644 0:0"
        ]
    );
    assert!(told[4].ends_with(" new") && told[6].ends_with(" old"), "{told:?}");
    // A file was in the directory's place: nothing of a lower layer can be left in it.
    assert!(told[5].ends_with("trusted.overlay.opaque=y"), "{told:?}");
}

#[test]
fn symlinks_on_the_way_are_followed_inside_the_root() {
    let archive = Tar::new()
        .directory("usr/lib")
        .symlink("lib", "usr/lib")
        .symlink("out", "../../../../..")
        .symlink("absolute", "/usr")
        .symlink("dangling", "not/yet")
        .file("lib/a", b"")
        .file("out/etc/b", b"")
        .file("absolute/c", b"")
        .file("dangling/d", b"");
    let told = lines(&archive.end());
    let paths: Vec<&str> = told.iter().map(|line| line.split(' ').next().unwrap()).collect();
    for path in ["/usr/lib/a", "/etc/b", "/usr/c", "/not/yet/d", "/lib", "/dangling"] {
        assert!(paths.contains(&path), "{path} is not in {paths:?}");
    }
    let looped = Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", b"");
    assert!(refusal(&looped.end()).contains("too many symbolic links"));
}

#[test]
fn what_a_layer_says_of_lower_ones_is_recorded() {
    let archive = Tar::new()
        .file(".wh.gone", b"")
        .file("implicit/.wh..wh..opq", b"")
        .directory("mine")
        .file("mine/kept", b"")
        .file(".wh.mine", b"")
        .file("file", b"kept")
        .file(".wh.file", b"")
        .hard_link("down", "usr/below")
        .hard_link("down2", "down")
        .file(".wh..wh.plnk/aufs", b"")
        .file(".wh..wh.aufs", b"")
        .raw(&Header::new(b'3', b"device", 0), b"");
    let expected = [
        ROOT,
        "/device 20000 0:0 0.000000000 device 0x0",
        "/down 100000 0:0 0.000000000 trusted.overlay.ferry.link=usr/below 0 bytes 2d06800538d394c2 ",
        "/down2 = /down",
        "/file 100644 0:0 0.000000000 4 bytes 5be2a3ee4a0ed4d8 kept",
        "/gone = /device",
        "/implicit 40755 0:0 0.000000000 trusted.overlay.ferry.implicit=y trusted.overlay.opaque=y",
        "/mine 40755 0:0 0.000000000 trusted.overlay.opaque=y",
        "/mine/kept 100644 0:0 0.000000000 0 bytes 2d06800538d394c2 ",
    ];
    let told = lines(&archive.end());
    assert_eq!(told.len(), expected.len(), "{told:?}");
    for (line, expected) in told.iter().zip(expected) {
        // But for the hash of contents.
        let blank =
            |line: &str| line.split(' ').filter(|word| word.len() != 16).collect::<Vec<_>>().join(" ");
        assert_eq!(blank(line), blank(expected));
    }
}

#[test]
fn hostile_entries_are_refused_by_name() {
    let refused = [
        (Tar::new().file("a/../../etc/passwd", b""), "leads upwards"),
        (Tar::new().file("..", b""), "leads upwards"),
        (Tar::new().hard_link("a", "../../etc/passwd"), "impossible name"),
        (Tar::new().directory("d").hard_link("a", "d"), "hard link to a directory"),
        (Tar::new().hard_link("a", "/"), "hard link to a directory"),
        (Tar::new().file("f", b"").file("f/below", b""), "not a directory"),
        (Tar::new().symlink("./", "x"), "root of an image"),
        (Tar::new().symlink("l", ""), "link to nothing"),
        (Tar::new().file("d/.wh.", b""), "whiteout of nothing"),
        (Tar::new().file(".wh...", b""), "whiteout of nothing"),
        (Tar::new().pax(b'x', &[("path", &[b'n'; 256])]).file("x", b""), "more than 255 bytes"),
        (Tar::new().pax(b'x', &[("path", &b"n/".repeat(2048))]).file("x", b""), "more than 4095 bytes"),
        (Tar::new().pax(b'x', &[("path", b"a\0b")]).file("x", b""), "a NUL"),
        (Tar::new().pax(b'x', &[("uid", b"4294967295")]).file("x", b""), "more than 32 bits"),
        (Tar::new().pax(b'x', &[("linkpath", &[b't'; 4096])]).symlink("l", "t"), "more than 4095 bytes"),
        (Tar::new().pax(b'x', &[("SCHILY.xattr.user.a", &[0; 65536])]).file("x", b""), "65535"),
        (Tar::new().raw(Header::new(b'3', b"c", 0).octal(329, 8, 4096), b""), "device number"),
        (Tar::new().raw(&Header::new(b'Q', b"q", 0), b""), "type that is none"),
        (Tar::new().raw(Header::new(b'0', b"f", 0).put(124, &[0xff; 12]), b""), "negative size"),
        (Tar::new().raw(&Header::new(b'x', b"p", 1 << 30), b""), "more than 1 MiB"),
        (Tar::new().raw(&Header::new(b'L', b"p", 1 << 30), b""), "more than 1 MiB"),
        (Tar::new().pax(b'g', &[("path", &[b'p'; 20_000])]), "more than 16 KiB"),
        (
            (0..100).fold(Tar::new(), |tar, _| tar.pax(b'g', &[("comment", b"c")])),
            "too many extended headers",
        ),
        (
            Tar::new()
                .symlink("l", &"../".repeat(33))
                .pax(b'x', &[("linkpath", &b"../".repeat(1025))])
                .symlink("m", "x")
                .file("m/f", b""),
            "lead too far",
        ),
        (Tar::new().pax(b'x', &[("size", b"200000000000")]).file("x", b""), "ends in the middle"),
        (
            Tar::new().pax(b'x', &[("size", b"109951162777600")]).file("x", b""),
            "more than 274877906944 bytes",
        ),
    ];
    for (archive, reason) in refused {
        let error = refusal(&archive.end());
        assert!(error.contains(reason), "{error} should say: {reason}");
    }
}

#[test]
fn archives_cut_anywhere_but_between_entries_are_refused() {
    let archive = Tar::new().file("a", &[1; 700]).pax(b'x', &[("path", b"b")]).file("x", b"x").0;
    for length in 1..archive.len() {
        let whole = [0, 512 + 1024].contains(&length);
        assert_eq!(converted(&archive[..length]).is_ok(), whole, "{length}");
    }
}

#[test]
fn a_flipped_bit_in_a_header_is_noticed() {
    let archive = Tar::new().file("name", b"data").end();
    for at in (0..512).filter(|at| !(148..156).contains(at)) {
        let mut broken = archive.clone();
        broken[at] ^= 1;
        assert!(refusal(&broken).contains("checksum"), "byte {at}");
    }
}

#[test]
fn limits_are_kept() {
    let convert = |archive: Vec<u8>, limits: Limits| {
        convert(&archive[..], &file(), &file(), &limits).map_err(|error| error.to_string())
    };
    let default = Limits::default();
    let many = || (0..100).fold(Tar::new(), |tar, number| tar.file(&format!("{number}"), b"x")).end();
    assert!(convert(many(), default).is_ok());
    assert!(convert(many(), Limits { entries: 99, ..default }).unwrap_err().contains("99 entries"));
    assert!(convert(many(), Limits { archive: 50_000, ..default }).unwrap_err().contains("50000 bytes"));
    assert!(convert(many(), Limits { names: 50, ..default }).unwrap_err().contains("50 bytes of names"));
    let attributed = Tar::new().pax(b'x', &[("SCHILY.xattr.user.a", &[b'v'; 5000])]).file("a", b"").end();
    let told = convert(attributed, Limits { memory: 4096, ..default }).unwrap_err();
    assert!(told.contains("4096 bytes of attributes"), "{told}");
    assert!(convert(many(), Limits { file: 0, ..default }).unwrap_err().contains("larger than allowed"));
}

#[test]
fn the_stream_is_read_to_its_end_and_its_error_passed_on() {
    struct Failing<'a>(&'a [u8]);
    impl Read for Failing<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() { Err(io::Error::other("wrong digest")) } else { self.0.read(to) }
        }
    }
    let archive = [Tar::new().file("a", b"b").end(), vec![7; 1 << 20]].concat();
    let stream = io::BufReader::new(Failing(&archive));
    let error = convert(stream, &file(), &file(), &Limits::default()).unwrap_err();
    assert_eq!(error.to_string(), "wrong digest");
}

/// What the disk holds of a file: none of it, or from which block.
fn place(archive: &[u8], name: &str) -> (Result<u32, Chunks>, Vec<u8>, u64) {
    let (file, layer) = converted(archive).unwrap();
    let tree = read::load(&file).unwrap();
    let node = tree.node(tree.child(Tree::ROOT, name.as_bytes()).unwrap());
    let Content::File { data, .. } = node.content else { panic!("no file") };
    let data = match data {
        Data::Plain { block, .. } => Ok(block),
        Data::Chunks(id) => Err(tree.chunks(id).clone()),
    };
    (data, read_file(&[&file], &tree, &node), layer.bytes)
}

#[test]
fn zeros_are_not_stored() {
    let mut bytes = vec![0; 1_000_000];
    bytes[300_000] = 1;
    let archive =
        Tar::new().file("zeros", &vec![0; 5_000_000]).file("mixed", &bytes).file("small", &[0; 10]).end();
    for (name, length) in [("zeros", 5_000_000), ("mixed", 1_000_000), ("small", 10)] {
        let (data, read, size) = place(&archive, name);
        assert!(data.is_err(), "{data:?}");
        assert_eq!(read.len(), length);
        assert!(if name == "mixed" { read == bytes } else { read.iter().all(|byte| *byte == 0) });
        assert!(size <= (64 << 10) + 4 * 4096, "{size}");
    }
}

#[test]
fn identical_files_are_stored_once() {
    let body: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    let mut other = body.clone();
    *other.last_mut().unwrap() ^= 1;
    let small = [5; 100];
    let archive = Tar::new()
        .file("a", &body)
        .file("b", &other)
        .file("c", &body)
        .file("s", &small)
        .file("t", &small)
        .file("d", &other)
        .end();
    let (_, _, size) = place(&archive, "a");
    assert!(size < 24_000_000 + 8 * 4096, "{size}");
    for (name, expected) in [("a", &body[..]), ("c", &body), ("b", &other), ("d", &other), ("t", &small)] {
        assert!(place(&archive, name).1 == expected, "{name}");
    }
    assert_eq!(place(&archive, "a").0, place(&archive, "c").0);
    assert_eq!(place(&archive, "s").0, place(&archive, "t").0);
}

#[test]
fn files_that_differ_in_where_their_holes_are_stay_different() {
    let (data, hole) = (vec![b'd'; 64 << 10], vec![0; 64 << 10]);
    let (first, second) = ([&data[..], &hole].concat(), [&hole[..], &data].concat());
    let archive = Tar::new().file("a", &first).file("b", &second).end();
    assert!(place(&archive, "a").1 == first);
    assert!(place(&archive, "b").1 == second);
}

/// A sparse file of 1 MiB and a bit with two pieces, in each of the four ways.
fn sparse_archives() -> [(&'static str, Vec<u8>); 4] {
    const SIZE: u64 = (1 << 20) + 17;
    let (one, two) = ([b'1'; 5000], [b'2'; 17]);
    let data = [&one[..], &two].concat();
    let pieces = [(100_000, 5000), (1 << 20, 17)];
    let size = SIZE.to_string();

    let mut old = Header::new(b'S', b"sparse", data.len() as u64);
    old.put(257, b"ustar  \0").octal(483, 12, SIZE);
    old.octal(386, 12, pieces[0].0).octal(398, 12, pieces[0].1).put(482, b"\x01");
    let mut more = Header { block: [0; 512] };
    more.octal(0, 12, pieces[1].0).octal(12, 12, pieces[1].1).octal(24, 12, SIZE).octal(36, 12, 0);
    let mut tar = Tar::new().raw(&old, b"");
    tar.0.extend_from_slice(&more.block);
    tar.0.extend_from_slice(&data);
    tar.0.resize(tar.0.len().next_multiple_of(512), 0);

    let numbers: Vec<String> =
        pieces.iter().flat_map(|piece| [piece.0.to_string(), piece.1.to_string()]).collect();
    let pax00 = Tar::new().pax(
        b'x',
        &[
            ("GNU.sparse.size", size.as_bytes()),
            ("GNU.sparse.numblocks", b"2"),
            ("GNU.sparse.offset", numbers[0].as_bytes()),
            ("GNU.sparse.numbytes", numbers[1].as_bytes()),
            ("GNU.sparse.offset", numbers[2].as_bytes()),
            ("GNU.sparse.numbytes", numbers[3].as_bytes()),
        ],
    );
    let map = numbers.join(",");
    let name: (&str, &[u8]) = ("GNU.sparse.name", b"sparse");
    let pax01 = Tar::new()
        .pax(b'x', &[("GNU.sparse.size", size.as_bytes()), ("GNU.sparse.map", map.as_bytes()), name]);
    let pax10 = Tar::new().pax(
        b'x',
        &[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", size.as_bytes()),
            name,
        ],
    );
    let mut with_map = format!("2\n{}\n", numbers.join("\n")).into_bytes();
    with_map.resize(512, 0);
    with_map.extend_from_slice(&data);
    [
        ("old GNU", tar.end()),
        ("pax 0.0", pax00.file("sparse", &data).end()),
        ("pax 0.1", pax01.file("GNUSparseFile.1/sparse", &data).end()),
        ("pax 1.0", pax10.file("GNUSparseFile.1/sparse", &with_map).end()),
    ]
}

#[test]
fn sparse_files_of_every_make_keep_their_holes() {
    let mut expected = vec![0; (1 << 20) + 17];
    expected[100_000..105_000].fill(b'1');
    expected[1 << 20..].fill(b'2');
    let mut images = Vec::new();
    for (make, archive) in sparse_archives() {
        let (data, bytes, size) = place(&archive, "sparse");
        assert!(bytes == expected, "{make}");
        assert!(data.is_err(), "{make}");
        assert!(size <= 10 * 4096, "{make}: {size}");
        images.push(data);
    }
    assert!(images.iter().all(|data| *data == images[0]));
}

#[test]
fn vast_sparse_files_cost_next_to_nothing() {
    for (size, offset) in [(100u64 << 30, 77u64 << 30), (16 << 40, 0), (5 << 40, (5 << 40) - 3)] {
        let map = format!("{offset},3");
        let records: &[(&str, &[u8])] =
            &[("GNU.sparse.size", &size.to_string().into_bytes()), ("GNU.sparse.map", map.as_bytes())];
        let archive =
            (0..3).fold(Tar::new(), |tar, number| tar.pax(b'x', records).file(&format!("f{number}"), b"abc"));
        let (file, _) = converted(&archive.end()).unwrap();
        let tree = read::load(&file).unwrap();
        let node = tree.node(tree.child(Tree::ROOT, b"f1").unwrap());
        let Content::File { size: found, data: Data::Chunks(chunks) } = node.content else {
            panic!("no chunks")
        };
        let chunks = tree.chunks(chunks);
        assert_eq!(found, size);
        assert!(chunks.blocks.len() <= 1025, "{}", chunks.blocks.len());
        let chunk = 4096u64 << chunks.bits;
        let block = chunks.blocks[(offset / chunk) as usize];
        let mut bytes = [0; 3];
        std::os::unix::fs::FileExt::read_exact_at(
            &file,
            &mut bytes,
            u64::from(block) * 4096 + offset % chunk,
        )
        .unwrap();
        assert_eq!(&bytes, b"abc");
        use std::os::unix::fs::MetadataExt;
        assert!(file.metadata().unwrap().blocks() * 512 < 1 << 20);
    }
}

#[test]
fn broken_sparse_maps_are_refused() {
    let sparse = |map: &str, size: &str, data: &[u8]| {
        let records: &[(&str, &[u8])] =
            &[("GNU.sparse.size", size.as_bytes()), ("GNU.sparse.map", map.as_bytes())];
        refusal(&Tar::new().pax(b'x', records).file("f", data).end())
    };
    assert!(sparse("0,2,1,2", "10", b"abcd").contains("overlap"));
    assert!(sparse("5,2,0,2", "10", b"abcd").contains("overlap"));
    assert!(sparse("9,2", "10", b"ab").contains("beyond"));
    assert!(sparse("18446744073709551615,2", "10", b"ab").contains("beyond"));
    assert!(sparse("0,3", "10", b"abcd").contains("differ in length"));
    assert!(sparse("0", "10", b"").contains("half a segment"));
    assert!(sparse("0,0", "9223372036854775808", b"").contains("impossible size"));
}

#[test]
fn the_image_is_a_function_of_the_archive() {
    let archive = Tar::new().file("a/b", b"x").file(".wh.c", b"").hard_link("d", "e").directory("f/g").end();
    let bytes = || {
        let (mut file, _) = converted(&archive).unwrap();
        let mut bytes = Vec::new();
        io::Seek::rewind(&mut file).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    };
    let first = bytes();
    assert!((0..5).all(|_| bytes() == first));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is wrong with an archive: an answer, and a layer that can be read if it is one.
    #[test]
    fn a_damaged_archive_is_converted_or_refused(
        which in 0..5usize,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
        cut in any::<prop::sample::Index>(),
    ) {
        let [(_, a), (_, b), (_, c), (_, d)] = sparse_archives();
        let e = Tar::new().pax(b'x', &[("path", b"p"), ("SCHILY.xattr.user.a", b"b")]).directory("d").symlink("s", "d")
            .file("s/f", b"data").hard_link("h", "s/f").file(".wh.w", b"").end();
        let mut archive = [a, b, c, d, e][which].clone();
        for (place, byte) in damage {
            let at = place.index(archive.len());
            archive[at] = byte;
        }
        // Headers must pass their checksum to get any further.
        for header in archive.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        archive.truncate(archive.len() - cut.index(archive.len()) / 8);
        if let Ok((file, _)) = converted(&archive) {
            read::load(&file).unwrap();
        }
    }
}
