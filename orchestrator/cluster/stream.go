package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/nomad/api"
)

// errNamespaces ends an event stream that does not have all namespaces any more.
var errNamespaces = errors.New("the namespaces have changed")

// follow hands the events after index to handle, those of all namespaces, until
// ctx ends, the connection breaks or handle fails. It returns where it got to.
//
// Nomad takes "all namespaces" for those that there are when a stream is opened,
// so it is opened again when there are others. opened is called before each time:
// what came before may be missed if index is 0.
func follow(ctx context.Context, client *api.Client, topics map[api.Topic][]string, index uint64, opened func(), handle func(*api.Events) error) (uint64, error) {
	for {
		known, err := namespacesAfter(ctx, client, 0)
		if err != nil {
			return index, err
		}
		opened()
		streaming, stop := context.WithCancelCause(ctx)
		var watch sync.WaitGroup
		watch.Go(func() {
			if _, err := namespacesAfter(streaming, client, known); err != nil {
				stop(err)
				return
			}
			stop(errNamespaces)
		})
		index, err = readStream(streaming, client, topics, index, handle)
		changed := errors.Is(context.Cause(streaming), errNamespaces)
		stop(nil)
		watch.Wait()
		if ctx.Err() != nil {
			return index, ctx.Err()
		}
		if !changed {
			return index, err
		}
	}
}

// namespacesAfter waits until the list of namespaces is newer than an index, and
// returns its own.
func namespacesAfter(ctx context.Context, client *api.Client, index uint64) (uint64, error) {
	for {
		_, meta, err := client.Namespaces().List((&api.QueryOptions{WaitIndex: index}).WithContext(ctx))
		if err != nil {
			return 0, fmt.Errorf("listing namespaces: %w", err)
		}
		if meta.LastIndex != index || index == 0 {
			return meta.LastIndex, nil
		}
	}
}

func readStream(ctx context.Context, client *api.Client, topics map[api.Topic][]string, index uint64, handle func(*api.Events) error) (uint64, error) {
	stream, err := client.EventStream().Stream(ctx, topics, index, &api.QueryOptions{Namespace: api.AllNamespacesNamespace})
	if err != nil {
		return index, fmt.Errorf("opening the event stream: %w", err)
	}
	for batch := range stream {
		if batch.Err != nil {
			return index, fmt.Errorf("reading the event stream: %w", batch.Err)
		}
		if err := handle(batch); err != nil {
			return index, err
		}
		index = max(index, batch.Index)
	}
	return index, errors.New("the event stream ended")
}
