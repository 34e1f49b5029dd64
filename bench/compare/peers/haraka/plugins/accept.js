// Every recipient is taken, and nobody's name is looked up.
exports.hook_lookup_rdns = (next) => next(OK, 'source.test')
exports.hook_rcpt = (next) => next(OK)
