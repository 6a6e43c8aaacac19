//! Images from recipes: `images/recipes/NAME.toml`.

use std::path::PathBuf;

use crate::workshop::Workshop;

/// Where recipes are.
pub fn directory(workshop: &Workshop) -> PathBuf {
    workshop.checkout.join("images/recipes")
}

/// Whether there is a recipe of this name.
pub fn exists(workshop: &Workshop, name: &str) -> bool {
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    plain && directory(workshop).join(format!("{name}.toml")).is_file()
}
