//! Images of other makes, as other people build them, put together here from Debian's packages or by hand.
