package stdio

// Null says which of descriptors 0, 1 and 2 will be /dev/null.
func (r Request) Null() (is [3]bool) {
	in, out, err, bad := targets(r)
	if bad != nil || r.Terminal {
		return is
	}
	for i, t := range []target{in, out, err} {
		is[i] = t.kind == null
	}
	return is
}
