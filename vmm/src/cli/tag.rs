//! `ferry tag`: another name for an image.

use super::image;
use super::{Fault, Global};
use clap::Args;
use ferry_images::reference::Name;

/// Operands of `ferry tag`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ferry tag redis:7 registry.example/cache:tested")]
pub struct TagArgs {
    /// A name, an id, or the beginning of an id
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The new name, as in Docker: [HOST[:PORT]/]REPOSITORY[:TAG]
    #[arg(value_name = "NAME")]
    name: Name,
}

/// `ferry tag`.
pub fn tag(global: &Global, args: &TagArgs) -> Result<u8, Fault> {
    let store = global.store()?;
    let found = image::known(&store, &args.image)?;
    if args.name.digest.is_some() {
        return Err(Fault::new(format_args!(
            "{} ends in a digest, which is what an image is and no name to give: end it in a tag",
            args.name
        )));
    }
    store.tag(&args.name, &found.digest, found.names.first()).map_err(Fault::new)?;
    Ok(0)
}
