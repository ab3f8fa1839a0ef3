"""The least that any worker must do: consume every record with aiokafka and produce it again.

python benchmarks/systems/bare_kafka.py ADDRESS RECORDS TARGET SOURCE...
"""

from __future__ import annotations

import asyncio
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

PARTITIONS = 4


async def main(address: str, records: int, target: str, sources: list[str]) -> None:
    """Copy so many records of these topics, partition by partition, and wait for the last acknowledgement."""
    consumer = AIOKafkaConsumer(bootstrap_servers=address, enable_auto_commit=False)
    producer = AIOKafkaProducer(bootstrap_servers=address, acks="all", linger_ms=5, max_batch_size=256 * 1024)
    async with consumer, producer:
        consumer.assign([TopicPartition(name, number) for name in sources for number in range(PARTITIONS)])
        await consumer.seek_to_beginning()
        left = records
        while left > 0:
            for tp, found in (await consumer.getmany(timeout_ms=500)).items():
                for record in found:
                    await producer.send(target, record.value, record.key, partition=tp.partition)
                left -= len(found)
        await producer.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:]))
