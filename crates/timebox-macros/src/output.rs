use quote::quote;
use syn::visit_mut::{self, VisitMut};
use syn::{
    AngleBracketedGenericArguments, Error, GenericArgument, PathArguments, PathSegment, Result, ReturnType,
    Signature, TraitBound, Type, TypeParamBound,
};

/// What a function returns. Each `impl Trait` in the types is replaced by `_`, since a body cannot write `impl Trait`.
pub(crate) struct Output {
    pub(crate) form: Form,
    pub(crate) returned: Type,
    /// If the function is not async and returns a future: the future's output. Else the same as `returned`.
    pub(crate) result: Type,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Form {
    Block,
    AsyncFn,
    /// A function that is not async and returns a future.
    Future,
    BoxedFuture,
}

impl Output {
    pub(crate) fn of(signature: &Signature) -> Result<Self> {
        let is_async = signature.asyncness.is_some();
        let value = if is_async { "run_future_value" } else { "run_value" };
        let missing = format!(
            "a limit needs a place for its error: return a `Result` whose error is `From<TimeoutError>`, or call \
             `Timebox::{value}` in the function"
        );
        let ReturnType::Type(_, output) = &signature.output else {
            return Err(Error::new_spanned(&signature.ident, missing));
        };
        let output = inner(output);
        let (form, result) = match future_output(output) {
            _ if is_async => (Form::AsyncFn, output),
            Some((form, result)) => (form, result),
            None if matches!(output, Type::ImplTrait(_)) => return Err(Error::new_spanned(output, missing)),
            // The compiler checks whether this is a `Result`: see `Fallible` of `timebox`.
            None => (Form::Block, output),
        };
        Ok(Self { form, returned: without_impl_trait(output), result: without_impl_trait(result) })
    }
}

/// The type without parentheses, and without the invisible groups that a macro puts around it.
fn inner(mut output: &Type) -> &Type {
    while let Type::Group(syn::TypeGroup { elem, .. }) | Type::Paren(syn::TypeParen { elem, .. }) = output {
        output = elem;
    }
    output
}

/// `R`, if the type is `impl Future<Output = R>`, `Pin<Box<dyn Future<Output = R>>>` or `BoxFuture<R>`. Else `None`.
fn future_output(output: &Type) -> Option<(Form, &Type)> {
    let path = match output {
        Type::ImplTrait(of) => return Some((Form::Future, output_of_bounds(&of.bounds)?)),
        Type::Path(of) => &of.path,
        _ => return None,
    };
    let last = path.segments.last()?;
    let result = match last.ident.to_string().as_str() {
        "BoxFuture" | "LocalBoxFuture" => types(last).last(),
        "Pin" => {
            let Type::Path(pointer) = types(last).next()? else { return None };
            let pointer = pointer.path.segments.last().filter(|pointer| pointer.ident == "Box")?;
            let Type::TraitObject(of) = inner(types(pointer).next()?) else { return None };
            output_of_bounds(&of.bounds)
        }
        _ => None,
    };
    Some((Form::BoxedFuture, result?))
}

fn output_of_bounds<'a>(bounds: impl IntoIterator<Item = &'a TypeParamBound>) -> Option<&'a Type> {
    let mut traits = bounds.into_iter().filter_map(|bound| match bound {
        TypeParamBound::Trait(TraitBound { path, .. }) => path.segments.last(),
        _ => None,
    });
    let future = traits.find(|name| name.ident == "Future")?;
    arguments(future)?.args.iter().find_map(|argument| match argument {
        GenericArgument::AssocType(of) if of.ident == "Output" => Some(&of.ty),
        _ => None,
    })
}

fn arguments(of: &PathSegment) -> Option<&AngleBracketedGenericArguments> {
    match &of.arguments {
        PathArguments::AngleBracketed(arguments) => Some(arguments),
        _ => None,
    }
}

fn types(of: &PathSegment) -> impl Iterator<Item = &Type> {
    arguments(of).into_iter().flat_map(|arguments| &arguments.args).filter_map(|argument| match argument {
        GenericArgument::Type(of) => Some(of),
        _ => None,
    })
}

fn without_impl_trait(output: &Type) -> Type {
    struct Inferred;
    impl VisitMut for Inferred {
        fn visit_type_mut(&mut self, of: &mut Type) {
            if let Type::ImplTrait(_) = of {
                *of = Type::Verbatim(quote!(_));
            } else {
                visit_mut::visit_type_mut(self, of);
            }
        }
    }
    let mut output = output.clone();
    Inferred.visit_type_mut(&mut output);
    output
}
