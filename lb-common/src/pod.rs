//! One macro for every type that lives in a map.

/// Declares a map type: `#[repr(C)]`, plain old data without hidden padding
/// (bytemuck's derive refuses any), its size and every field's offset asserted
/// at compile time, and `aya::Pod` on the host side.
macro_rules! map_type {
    (
        $(#[$meta:meta])*
        pub struct $name:ident: $size:literal {
            $( $(#[$field_meta:meta])* $offset:literal => pub $field:ident: $ty:ty, )*
        }
    ) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
        pub struct $name {
            $( $(#[$field_meta])* #[doc = concat!("(byte ", $offset, ")")] pub $field: $ty, )*
        }

        const _: () = {
            assert!(core::mem::size_of::<$name>() == $size);
            $( assert!(core::mem::offset_of!($name, $field) == $offset); )*
        };

        impl $name {
            /// All bytes zero: in every map this is the empty entry.
            pub const ZERO: Self = {
                // SAFETY: the type is plain old data (derived and checked by
                // bytemuck), for which all bits zero is a valid value.
                unsafe { core::mem::zeroed() }
            };
        }

        #[cfg(feature = "user")]
        // SAFETY: `#[repr(C)]`, `Copy`, and without padding, checked by bytemuck's derive.
        unsafe impl aya::Pod for $name {}
    };
}

pub(crate) use map_type;
