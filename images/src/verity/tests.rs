use std::io::Write;

use super::*;

/// An image of `blocks` blocks that differ.
fn image(blocks: u64) -> File {
    let mut file = tempfile::tempfile().unwrap();
    for block in 0..blocks {
        let bytes: Vec<u8> = (0..BLOCK / 8).flat_map(|word| (block << 16 | word).to_le_bytes()).collect();
        file.write_all(&bytes).unwrap();
    }
    file
}

fn bytes(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// The digest of a block at some level, by the definition: from the bytes below, with nothing remembered.
fn digest_of(salt: &Salt, below: &[u8]) -> [u8; 32] {
    if below.len() <= BLOCK as usize {
        let mut block = below.to_vec();
        block.resize(BLOCK as usize, 0);
        return Sha256::new().chain_update(salt.bytes()).chain_update(&block).finalize().into();
    }
    let digests = below.chunks(BLOCK as usize).flat_map(|block| digest_of(salt, block));
    let digests: Vec<u8> = digests.collect();
    let blocks: Vec<u8> = digests.chunks(BLOCK as usize).flat_map(padded).collect();
    digest_of(salt, &blocks)
}

fn padded(digests: &[u8]) -> Vec<u8> {
    let mut block = digests.to_vec();
    block.resize(BLOCK as usize, 0);
    block
}

#[test]
fn the_root_is_the_digest_of_digests_of_every_block() {
    let salt = Salt::new(b"salt").unwrap();
    for blocks in [1, 2, 127, 128, 129, 128 * 128, 128 * 128 + 1] {
        let (image, out) = (image(blocks), tempfile::tempfile().unwrap());
        let sealed = seal(&image, salt.clone(), &out, 0).unwrap();
        assert_eq!(*sealed.root.bytes(), digest_of(&salt, &bytes(&image)), "{blocks}");
        assert_eq!(out.metadata().unwrap().len(), area(blocks), "{blocks}");
        assert_eq!(sealed.sectors() * 512, blocks * BLOCK);
    }
}

/// The root of one changed bit in the last block of a level must be another one.
#[test]
fn every_block_counts() {
    let salt = || Salt::new(&[]).unwrap();
    let (image, out) = (image(130), tempfile::tempfile().unwrap());
    let root = seal(&image, salt(), &out, 0).unwrap().root;
    for block in [0, 127, 128, 129] {
        let mut byte = [0];
        image.read_exact_at(&mut byte, block * BLOCK + 4095).unwrap();
        image.write_all_at(&[byte[0] ^ 0x80], block * BLOCK + 4095).unwrap();
        assert_ne!(seal(&image, salt(), &out, 0).unwrap().root, root, "{block}");
        image.write_all_at(&byte, block * BLOCK + 4095).unwrap();
    }
    assert_eq!(seal(&image, salt(), &out, 0).unwrap().root, root);
}

#[test]
fn an_area_behind_its_image_is_the_same_area() {
    let salt = Salt::from(Digest::of(b"layer"));
    let (alone, both) = (tempfile::tempfile().unwrap(), image(300));
    let sealed = seal(&both, salt.clone(), &alone, 0).unwrap();
    let behind = seal_first(&both, 300 * BLOCK, salt.clone(), &both, 300 * BLOCK).unwrap();
    assert_eq!(behind.root, sealed.root);
    assert_eq!(bytes(&both)[300 * BLOCK as usize..], bytes(&alone));
    assert_eq!(
        behind.target("253:0", "253:0"),
        format!("1 253:0 253:0 4096 4096 300 301 sha256 {} {salt}", sealed.root.hex())
    );
}

#[test]
fn what_has_no_whole_blocks_is_refused() {
    let out = tempfile::tempfile().unwrap();
    let salt = || Salt::new(&[]).unwrap();
    assert!(matches!(seal(&image(0), salt(), &out, 0), Err(Error::Empty)));
    assert!(matches!(seal(&image(1), salt(), &out, 5), Err(Error::Unaligned(5))));
    let odd = image(1);
    odd.set_len(BLOCK + 1).unwrap();
    assert!(matches!(seal(&odd, salt(), &out, 0), Err(Error::NotWholeBlocks(4097))));
    odd.set_len(BLOCK).unwrap();
    assert!(seal_first(&odd, 2 * BLOCK, salt(), &out, 0).is_err(), "shorter than announced");
    assert_eq!(Salt::new(&[0; 257]), None);
    assert_eq!(salt().to_string(), "-");
}
