package kube

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/pem"
	"time"
)

// bundle is whom the API server is to trust, as it takes it: the CA, and for a while the one before it, if it trusts that
// now. A third one was replaced in a hurry and is no loss.
func (w *Webhooks) bundle(ca []byte, has string, now time.Time) string {
	out := bytes.TrimSpace(ca)
	own := pemBlock(ca)
	if w.old == nil {
		w.old = map[string]time.Time{}
	}
	raw, err := base64.StdEncoding.DecodeString(has)
	if err != nil {
		raw = nil
	}
	for _, der := range pemBlocks(raw) {
		if bytes.Equal(der, own) {
			delete(w.old, string(own))
			continue
		}
		if w.old[string(der)].IsZero() {
			w.old[string(der)] = now
		}
		if now.Sub(w.old[string(der)]) < cmp.Or(w.Overlap, 10*time.Minute) {
			old := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
			out = append(append(bytes.Clone(out), '\n'), bytes.TrimSpace(old)...)
			break
		}
	}
	return base64.StdEncoding.EncodeToString(append(bytes.Clone(out), '\n'))
}

func pemBlocks(text []byte) (out [][]byte) {
	for b, rest := pem.Decode(text); b != nil; b, rest = pem.Decode(rest) {
		out = append(out, b.Bytes)
	}
	return out
}

func pemBlock(text []byte) []byte {
	if all := pemBlocks(text); len(all) > 0 {
		return all[0]
	}
	return nil
}
